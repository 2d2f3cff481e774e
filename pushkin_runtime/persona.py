"""What conditions a generation besides its words: the persona's soft tokens, from whoever can make them.

The rows stand first in the prompt. In the record of a KV cache they are PERSONA_TOKEN each, so that prefixes
are compared as for ordinary tokens; the cache's key has the persona's version, which tells rows apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.errors import InvalidRequest
from pushkin_runtime.types import AdapterRef, GenerationRequest, PersonaUsed

PERSONA_TOKEN = -1  # no vocabulary has it


@dataclass(frozen=True, slots=True, eq=False)
class Persona:
    """used: for the answer; its version is different for different rows. min_p: what the user's predictability
    asks for, None without opinion. rows: (n_rows, hidden_size) float32, as they enter the first layer."""

    used: PersonaUsed = field(default_factory=PersonaUsed)
    min_p: float | None = None
    rows: NDArray[np.float32] | None = None

    @property
    def n_rows(self) -> int:
        """Prompt positions it takes."""
        return 0 if self.rows is None else len(self.rows)


NO_PERSONA = Persona()


class PersonaSource(Protocol):
    """Makes personas; implemented above the runtime, where documents are known."""

    def check(self, request: GenerationRequest) -> tuple[AdapterRef, ...]:
        """Refuse what cannot be done, while a status code can still be given; any thread, fast.

        Returns the adapters that belong to the persona this request will get, to be added to the task's own
        defaults; () without a persona. Raises errors that the edge knows.
        """

    def make(self, request: GenerationRequest) -> Persona:
        """Return the persona of a request, NO_PERSONA when it has none; inference thread, within some 25 ms.

        The same one as before while the request's document has had no new paragraph: another would
        throw the KV cache away.
        """


class NoPersonas:
    """See `PersonaSource`: nothing is indexed."""

    def check(self, request: GenerationRequest) -> tuple[AdapterRef, ...]:
        if request.persona.documents or request.persona.exclude:
            raise InvalidRequest(
                "No documents are indexed, so the persona cannot be limited to some of them; "
                'send "auto" or "off".',
                param="persona",
            )
        return ()

    def make(self, request: GenerationRequest) -> Persona:
        return NO_PERSONA


class PersonaDesk:
    """See `PersonaSource`: whoever makes personas at the moment, because documents are opened after the model.

    A prompt given as tokens is verbatim, so it has none.
    """

    def __init__(self) -> None:
        self.source: PersonaSource = NoPersonas()

    def check(self, request: GenerationRequest) -> tuple[AdapterRef, ...]:
        return () if request.prompt_tokens is not None else self.source.check(request)

    def make(self, request: GenerationRequest) -> Persona:
        return NO_PERSONA if request.prompt_tokens is not None else self.source.make(request)
