"""Documents → paragraphs → vectors → persona: what the user has written, as far as they allow."""
