"""Following a program's text while it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal, overload

from sgrt.core import TokenLogprob
from sgrt.errors import SgrtError
from sgrt.lang import meta
from sgrt.lang.partials import Partial, PartialReader
from sgrt.lang.reading import Reader, checked_name
from sgrt.lang.trace import Part
from sgrt.lang.variables import Generated, Produced, StreamEvent


class Streams(Reader):
    """The streaming part of a `ProgramState`."""

    __slots__ = ()

    def events(self, name: str | None = None) -> Iterator[StreamEvent]:
        """Follow the text as it comes, of the whole state or of one variable.

        Raises:
            ProgramError: an error is raised where it ends the text.
        """
        self._send()
        if name is not None:
            yield from self._variable_events(self._streamed(checked_name(name)))
            return
        for part in self._trace.parts.follow() if self._outside() else self._trace.parts.now():
            if isinstance(part.variable, Produced):
                yield from self._variable_events(part.variable)
            elif part.text:
                yield _given(part)
        self._settle()

    async def aevents(self, name: str | None = None) -> AsyncIterator[StreamEvent]:
        """`events` for coroutines."""
        self._send()
        async for part in self._aparts():
            variable = part.variable
            if name is not None and (variable is None or variable.name != name):
                continue
            if isinstance(variable, Produced):
                try:
                    async for event in variable.aevents():
                        yield event
                except Exception as error:
                    raise self._failed(variable, error) from self._cause(error)
            elif part.text:
                yield _given(part)
            if name is not None:
                break
        else:
            if name is not None:
                self._find(name)
            elif self._outside():
                await self._body.wait()
        if name is not None:
            self._streamed(name)

    async def _aparts(self) -> AsyncIterator[Part]:
        if self._outside():
            async for part in self._trace.parts.afollow():
                yield part
        else:
            for part in self._trace.parts.now():
                yield part

    def text_iter(self, var_name: str | None = None) -> Iterator[str]:
        """`events`, as non-empty pieces of text; together they are the whole text."""
        return (event.text for event in self.events(var_name) if event.text)

    def partials(self, name: str) -> Iterator[Partial]:
        """Follow a JSON value while it is written: an event for each field and item that has
        ended, validated, with all there is so far; the last one is the whole value.

        Of `gen` with ``output`` or ``json_schema``; a type that is no JSON has the last event only.

        Raises:
            ProgramError: the text is no typed value, or could not be produced.
        """
        variable = self._typed(self._streamed(checked_name(name)))
        reader = variable.partial_reader()
        for event in self.events(name):
            if reader is not None:
                yield from self._fields(variable, reader, event.text)
        yield PartialReader.end(self._read(variable))

    async def apartials(self, name: str) -> AsyncIterator[Partial]:
        """`partials` for coroutines."""
        variable: Generated | None = None
        reader: PartialReader | None = None
        async for event in self.aevents(name):
            if variable is None:
                variable = self._typed(self._streamed(name))
                reader = variable.partial_reader()
            if reader is not None:
                for partial in self._fields(variable, reader, event.text):
                    yield partial
        found = variable or self._typed(self._streamed(name))
        await found.settled()
        yield PartialReader.end(self._read(found))

    def _typed(self, variable: Produced) -> Generated:
        if isinstance(variable, Generated) and variable.is_typed:
            return variable
        raise self._program_error(f"{variable.name!r} has no type and no schema", variable.name)

    def _fields(self, variable: Generated, reader: PartialReader, text: str) -> list[Partial]:
        try:
            return reader.feed(text)
        except (ValueError, SgrtError) as error:
            raise variable.error(f"what it has so far is no value: {error}") from error

    @overload
    def text_async_iter(
        self, var_name: str | None = ..., return_meta_data: Literal[False] = ...
    ) -> AsyncIterator[str]: ...
    @overload
    def text_async_iter(
        self, var_name: str, return_meta_data: Literal[True]
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]: ...
    def text_async_iter(
        self, var_name: str | None = None, return_meta_data: bool = False
    ) -> AsyncIterator[Any]:
        """`text_iter` for coroutines.

        Args:
            return_meta_data: give pairs of text and what `get_meta_info` tells of its tokens;
                counts are of all tokens so far. Of one variable only.
        """
        if return_meta_data:
            return self._with_meta(checked_name(var_name))
        return self._texts(var_name)

    async def _texts(self, name: str | None) -> AsyncIterator[str]:
        async for event in self.aevents(name):
            if event.text:
                yield event.text

    async def _with_meta(self, name: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        num_tokens = num_scored = 0
        waiting: list[TokenLogprob] = []  # of tokens that have shown no text yet
        async for event in self.aevents(name):
            if event.tokens is not None:
                num_tokens += len(event.tokens.token_ids)
                waiting += event.tokens.logprobs
            if not event.text:
                continue
            num_scored += len(waiting)
            told = meta.of_tokens(self._trace.backend, waiting) if num_scored else {}
            told |= {"output_token_logprobs_length": num_scored} if num_scored else {}
            yield event.text, {**told, "completion_tokens": num_tokens}
            waiting = []

    def _streamed(self, name: str) -> Produced:
        variable = self._find(name, first=True)
        if not isinstance(variable, Produced):
            raise self._program_error(f"{name!r} was not generated; it cannot be streamed", name)
        return variable

    def _variable_events(self, variable: Produced) -> Iterator[StreamEvent]:
        try:
            yield from variable.events()
        except Exception as error:
            raise self._failed(variable, error) from self._cause(error)


def _given(part: Part) -> StreamEvent:
    return StreamEvent(part.text, "template" if part.template else "text")
