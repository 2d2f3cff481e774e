"""What is counted and timed while serving."""
