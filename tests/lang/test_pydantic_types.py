"""Every type of pydantic: each text that its grammar allows is one that its validator takes, or it
is refused by name before anything is generated. `docs/types.md` lists them as they are here."""

import collections
import datetime as dt
import enum
import fractions
import ipaddress
import pathlib
import random
import re
import typing
import uuid
from collections.abc import Callable, Hashable
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import pydantic
import pytest
from pydantic import Field, StringConstraints

import sgrt
from sgrt.errors import ConstraintError, UnsupportedSchema
from sgrt.lang.outputs import output_of
from tests.grammar.grammar_support import allowed_ids, byte_vocabulary, grammar

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "types.md"


class Colour(enum.Enum):
    RED = "red"
    TWO = 2


class Pair(NamedTuple):
    a: int
    b: str


class Keys(TypedDict):
    a: int


class Model(pydantic.BaseModel):
    x: int | None


UTC = dt.UTC
PLAIN: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "bytes": bytes,
    "complex": complex,
    "None": type(None),
    "Any": Any,
    "object": object,
    "list": list[int],
    "set": set,
    "frozenset": frozenset[str],
    "tuple": tuple[int, str],
    "deque": collections.deque[int],
    "dict": dict[str, int],
    "Mapping": collections.abc.Mapping[str, int],
    "Counter": collections.Counter[str],
    "Sequence": collections.abc.Sequence[int],
    "Iterable": collections.abc.Iterable[int],
    "Union": int | str,
    "Optional": typing.Optional[int],  # noqa: UP045
    "Literal": Literal["a", 1],
    "Enum": Colour,
    "NamedTuple": Pair,
    "TypedDict": Keys,
    "BaseModel": Model,
    "Decimal": Annotated[Decimal, Field(ge=0, max_digits=4, decimal_places=2)],
    "Fraction": fractions.Fraction,
    "Pattern": re.Pattern,
    "UUID": uuid.UUID,
    "Path": pathlib.Path,
    "date": dt.date,
    "time": dt.time,
    "datetime": dt.datetime,
    "timedelta": dt.timedelta,
    **{name: getattr(ipaddress, name) for name in ("IPv4Address", "IPv4Interface", "IPv4Network")},
    **{name: getattr(ipaddress, name) for name in ("IPv6Address", "IPv6Interface", "IPv6Network")},
}
_NAMES = """StrictBool StrictInt StrictFloat StrictStr StrictBytes PositiveInt NegativeInt
NonNegativeInt NonPositiveInt PositiveFloat NegativeFloat NonNegativeFloat NonPositiveFloat
FiniteFloat UUID1 UUID3 UUID4 UUID5 UUID6 UUID7 UUID8 Base64Bytes Base64Str Base64UrlBytes
Base64UrlStr PastDate PastDatetime AwareDatetime NaiveDatetime ByteSize SecretStr SecretBytes
JsonValue AnyUrl AnyHttpUrl HttpUrl FileUrl FtpUrl WebsocketUrl AnyWebsocketUrl PostgresDsn
CockroachDsn AmqpDsn RedisDsn MongoDsn KafkaDsn NatsDsn MySQLDsn MariaDBDsn ClickHouseDsn
SnowflakeDsn EmailStr NameEmail IPvAnyAddress IPvAnyInterface IPvAnyNetwork"""
WRITTEN = PLAIN | {name: getattr(pydantic, name) for name in _NAMES.split()}
WRITTEN["Secret"] = pydantic.Secret[int]
WRITTEN["OnErrorOmit"] = list[pydantic.OnErrorOmit[int]]

_REFUSED = """FilePath DirectoryPath NewPath SocketPath FutureDate FutureDatetime Json
PaymentCardNumber ImportString"""
REFUSED = {name: getattr(pydantic, name) for name in _REFUSED.split()} | {
    "Callable": Callable,
    "Hashable": Hashable,
    "type": type[int],
    "Literal of bytes": Literal[b"x"],
    "dict with keys that are no texts": dict[tuple[int, int], int],
}

D, M = dt.date, dt.datetime
BOUNDED: dict[str, Any] = {
    "date between": Annotated[D, Field(ge=D(1999, 12, 30), lt=D(2000, 1, 2))],
    "condate": pydantic.condate(gt=D(2020, 2, 28), le=D(2020, 3, 1)),
    "aware from": Annotated[M, Field(ge=M(2024, 2, 29, 23, 59, 59, tzinfo=UTC))],
    "aware until": Annotated[
        M, Field(lt=M(1, 1, 2, 5, 0, 0, 1500, tzinfo=dt.timezone(dt.timedelta(hours=3))))
    ],
    "naive between": Annotated[
        M, Field(gt=M(2000, 1, 1, 12, 30, 0, 250), le=M(2000, 1, 1, 12, 30, 0, 251))
    ],
    "naive datetime": Annotated[pydantic.NaiveDatetime, Field(ge=M(2000, 1, 1))],
    "past and bound": Annotated[pydantic.PastDatetime, Field(ge=M(2000, 1, 1, tzinfo=UTC))],
    "time between": Annotated[dt.time, Field(gt=dt.time(11, 59, 59), lt=dt.time(12, 0, 0, 500))],
    "timedelta": Annotated[
        dt.timedelta, Field(gt=dt.timedelta(seconds=1), le=dt.timedelta(days=2))
    ],
    "decimal of quarters": pydantic.condecimal(multiple_of=Decimal("0.25"), gt=0),
    "decimal of threes": Annotated[Decimal, Field(multiple_of=3)],
    "bytes of length": Annotated[bytes, Field(min_length=2, max_length=4)],
    "ascii": Annotated[str, StringConstraints(ascii_only=True, max_length=5)],
    "trimmed": Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=4)],
    "float keys": dict[float, int],
    "bool keys": dict[bool, int],
    "decimal keys": dict[Decimal, int],
    "date keys": dict[Annotated[D, Field(ge=D(2000, 1, 1))], int],
    "nested": list[dict[str, pydantic.IPvAnyAddress | pydantic.Base64Str]],
}


class Configured(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        str_strip_whitespace=True,
        str_min_length=2,
        str_max_length=3,
        val_json_bytes="base64",
        allow_inf_nan=False,
    )
    a: str
    b: bytes
    c: float


class Hex(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(val_json_bytes="hex")
    a: bytes


class Encoded(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(val_json_bytes="base64")
    a: Annotated[bytes, Field(min_length=3)]


BOUNDED |= {"configured": Configured, "hexadecimal": Hex}
EVERY = WRITTEN | BOUNDED


def sampled(constraint: Any, chance: random.Random) -> str:
    """A text that the constraint allows, drawn byte by byte."""
    matcher, vocabulary = grammar(constraint).matcher(), byte_vocabulary()
    ids: list[int] = []
    most = chance.choice([4, 30, 90])
    while not matcher.is_final and not (matcher.is_complete and chance.random() < 0.25):
        end = matcher.shortest_completion(thorough=False) if len(ids) > most else None
        if end is not None:
            ids += end
            break
        allowed = allowed_ids(matcher, vocabulary)
        if not allowed:
            break
        shown = [i for i in allowed if 32 <= i < 127]
        token_id = chance.choice(shown if shown and chance.random() < 0.9 else allowed)
        matcher.accept([token_id])
        ids.append(token_id)
    return bytes(ids).decode()


def check(name: str, num: int) -> None:
    output = output_of(EVERY[name])
    texts = [sampled(output.constraint, random.Random(f"{name}{seed}")) for seed in range(num)]
    for text in texts:
        output.parse(text)


@pytest.mark.parametrize("name", EVERY)
def test_what_the_grammar_of_a_type_allows_its_validator_takes(name):
    check(name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_whatever_the_grammar_of_a_type_allows_its_validator_takes(name):
    check(name, 150)


@pytest.mark.parametrize("name", REFUSED)
def test_type_that_no_grammar_can_hold_is_refused_by_name_before_it_is_generated(name):
    with pytest.raises(UnsupportedSchema, match=r"the type .*:"):
        sgrt.gen("x", output=REFUSED[name])

    class Holder(pydantic.BaseModel):
        a: list[REFUSED[name]]  # type: ignore[valid-type]

    with pytest.raises(UnsupportedSchema, match="Holder"):
        sgrt.gen("x", output=Holder)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Annotated[dt.time, Field(ge=dt.time(1, tzinfo=UTC))], "times of day with offsets"),
        (Annotated[pydantic.NaiveDatetime, Field(ge=M(2000, 1, 1, tzinfo=UTC))], "without one"),
        (Annotated[dt.timedelta, Field(lt=dt.timedelta(0))], "no whole number of seconds"),
        (Annotated[Decimal, Field(multiple_of=3, max_digits=4)], "digits bounded"),
        (Annotated[pydantic.Base64Bytes, Field(min_length=3)], "bounds of what another"),
        (Annotated[pydantic.ByteSize, Field(le=3)], "bounds of what another"),
        (Annotated[M, Field(ge=D(2000, 1, 1))], "not compared with datetime.date"),
        (Encoded, "length of bytes that are spelled in base64"),
    ],
)
def test_bounds_that_cannot_be_promised_are_refused_with_the_reason(kind, why):
    with pytest.raises(UnsupportedSchema, match=why):
        sgrt.gen("x", output=kind)


def test_bounds_that_exclude_each_other_are_refused():
    never = Annotated[D, Field(gt=D(2000, 1, 1), lt=D(2000, 1, 2))]
    constraint = sgrt.gen("x", output=never).constraint
    with pytest.raises(ConstraintError):
        grammar(constraint)


@pytest.mark.parametrize("bound", [D(1, 1, 1), D(1999, 12, 31), D(2000, 1, 1), D(9999, 12, 31)])
@pytest.mark.parametrize("side", ["ge", "gt", "le", "lt"])
def test_dates_on_one_side_of_a_bound_are_exactly_those_that_pydantic_takes(bound, side):
    schema = {"type": "date", side: bound}
    patterns = [re.compile(pattern) for pattern in sgrt.lang.moments.patterns(schema)]
    valid = pydantic.TypeAdapter(Annotated[D, Field(**{side: bound})])
    chance = random.Random(1)
    near = [min(3_652_059, max(1, bound.toordinal() + i)) for i in range(-40, 40)]
    for day in [*near, *(chance.randrange(1, 3_652_060) for _ in range(60))]:
        text = D.fromordinal(day).isoformat()
        try:
            is_valid = valid.validate_python(text) is not None
        except pydantic.ValidationError:
            is_valid = False
        assert all(pattern.fullmatch(text) for pattern in patterns) == is_valid, text


def test_page_lists_the_types_as_they_are():
    text = PAGE.read_text()
    written, refused = text.split("## Refused")

    def shown(part: str) -> set[str]:
        return set(re.findall(r"^\| `?([\w ]+?)`? \|", part.replace("| type |", ""), re.MULTILINE))

    assert shown(written) == {*WRITTEN, "str"}
    assert shown(refused) == {*REFUSED}
