"""Exact regular expressions for the string formats of JSON Schema that are regular.

Each accepts a stated subset of its RFC that every common reader takes: no year 0, no leap
seconds, upper-case "T" and "Z", at most six digits of a fraction.
"""

from __future__ import annotations

_LEAP_CENTURIES = "(?:0[48]|[2468][048]|[13579][26])"
"""Multiples of four between 04 and 96: leap years in a century, and centuries that are leap."""
_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = f"(?:[0-9]{{2}}{_LEAP_CENTURIES}|{_LEAP_CENTURIES}00)"
_DAY_28 = "(?:0[1-9]|1[0-9]|2[0-8])"
_MONTH_DAY = f"(?:(?:0[13-9]|1[0-2])-(?:{_DAY_28}|29|30)|02-{_DAY_28}|(?:0[13578]|1[02])-31)"
DATE = f"(?:{_YEAR}-{_MONTH_DAY}|{_LEAP_YEAR}-02-29)"

_HOUR = "(?:[01][0-9]|2[0-3])"
_SIXTY = "[0-5][0-9]"
TIME = rf"{_HOUR}:{_SIXTY}:{_SIXTY}(?:\.[0-9]{{1,6}})?(?:Z|[+-]{_HOUR}:{_SIXTY})"

_DURATION_TIME = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DURATION_DATE = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
DURATION = f"P(?:{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME}|[0-9]+W)"

_HEX = "[0-9a-fA-F]"
UUID = "-".join(f"{_HEX}{{{n}}}" for n in (8, 4, 4, 4, 12))
UUIDS = {
    f"uuid{n}": f"{_HEX}{{8}}-{_HEX}{{4}}-{n}{_HEX}{{3}}-[89abAB]{_HEX}{{3}}-{_HEX}{{12}}"
    for n in range(1, 9)
    if n != 2
}
"""By version, as pydantic names them."""

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"


def _ipv6() -> str:
    """Eight groups of hexadecimal digits, at most one run of zeros among them written "::"."""
    group = "[0-9a-fA-F]{1,4}"
    last = f"(?:{group}:{group}|{IPV4})"
    tails = [f"(?:{group}:){{{n}}}{last}" for n in (5, 4, 3, 2, 1, 0)] + [group, ""]
    forms = [f"(?:{group}:){{6}}{last}"]
    for most_before, tail in enumerate(tails):
        head = f"(?:{group}(?::{group}){{0,{most_before - 1}}})?" if most_before else ""
        forms.append(f"{head}::{tail}")
    return "(?:" + "|".join(forms) + ")"


IPV6 = _ipv6()

_ALNUM = "[a-zA-Z0-9]"


def _label(max_len: int, first: str = _ALNUM) -> str:
    """A host name's label without hyphens in places 3 and 4.

    Those mark internationalised names ("xn--..."), whose validity is not regular.
    """
    inner = "[a-zA-Z0-9-]"
    third_and_fourth = f"(?:{_ALNUM}{inner}|-{_ALNUM})"
    long = f"{third_and_fourth}{inner}{{0,{max_len - 5}}}{_ALNUM}"
    return f"{first}(?:{_ALNUM}|{inner}{_ALNUM}|{inner}{inner}{_ALNUM}|{inner}{long})?"


# Three labels of 63 or eight of 30 characters: both stay below the 253 that a name may have.
HOSTNAME = rf"(?:{_label(63)}(?:\.{_label(63)}){{0,2}}|{_label(30)}(?:\.{_label(30)}){{0,7}})"
# The last label starts with a letter, so that no reader takes the name for an IPv4 address.
_DOMAIN = rf"(?:{_label(30)}\.){{0,5}}{_label(30, '[a-zA-Z]')}"

_ATOM = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]"
# Up to 64 characters, as one part, two or three.
_LOCAL = rf"(?:{_ATOM}{{1,64}}|{_ATOM}{{1,31}}\.{_ATOM}{{1,31}}|{_ATOM}{{1,20}}(?:\.{_ATOM}{{1,20}}){{2}})"
EMAIL = rf"{_LOCAL}@{_label(30)}\.{_DOMAIN}"

_PCHAR = "(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2})"
_QUERY = rf"\?(?:{_PCHAR}|[/?])*"
_FRAGMENT = rf"\#(?:{_PCHAR}|[/?])*"
_HOST = rf"(?:{_DOMAIN}|{IPV4})(?::[1-5]?[0-9]{{1,4}})?(?:/{_PCHAR}*)*"
_ROOTLESS = rf"{_PCHAR}+(?:/{_PCHAR}*)*"
URI = (
    rf"(?:[a-z][a-z0-9+.-]{{0,31}}:(?://{_HOST}|{_ROOTLESS})|file:///(?:{_ROOTLESS})?)"
    rf"(?:{_QUERY})?(?:{_FRAGMENT})?"
)
_NO_COLON = _PCHAR.replace(":@", "@")  # that would end a scheme
_PATH = f"(?:/(?:{_ROOTLESS})?|{_NO_COLON}+(?:/{_PCHAR}*)*)"
_RELATIVE = f"{_PATH}(?:{_QUERY})?(?:{_FRAGMENT})?|{_QUERY}(?:{_FRAGMENT})?|{_FRAGMENT}"
URI_REFERENCE = f"(?:{URI}|{_RELATIVE})"

POINTER = "(?:/(?:[^/~]|~[01])*)*"
RELATIVE_POINTER = rf"(?:0|[1-9][0-9]*)(?:\#|{POINTER})"

_VARIABLE = "(?:[a-zA-Z0-9_]|%[0-9A-F]{2})(?:\\.?(?:[a-zA-Z0-9_]|%[0-9A-F]{2}))*"
_VARIABLE += "(?:\\*|:[1-9][0-9]{0,3})?"
URI_TEMPLATE = (
    rf"(?:[a-zA-Z0-9._~:/?\#@!$&()*+,;=\[\]-]|%[0-9A-F]{{2}}"
    rf"|\{{[+\#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"
)


def _regex() -> str:
    """Patterns with groups in groups in groups, whose classes hold letters, digits and signs."""
    sign = r"[.^$|?*+()\[\]{}\\/]"
    escape = rf"\\{sign}|\\[dwsDWStnr]"
    in_class = rf"(?:a-z|A-Z|0-9|a-f|A-F|[a-zA-Z0-9_ .,:;/@\#%=<>!'+*?$()]|{escape})"
    single = rf"(?:[a-zA-Z0-9_ ,:;/@\#%&=<>!'~.-]|{escape}|\[\^?{in_class}+-?\])"
    ascending = "|".join(f"{low},[{low}-9]" for low in range(10))
    bounds = f"[0-9]{{1,2}},?|{ascending}|[0-9],[1-9][0-9]"
    count = rf"(?:[*+?]\??|\{{(?:{bounds})\}}\??)?"
    inner = rf"(?:{single}{count})*"
    for _ in range(3):
        part = rf"(?:\^|\$|(?:{single}|\((?:\?:)?{inner}\)){count})*"
        inner = rf"{part}(?:\|{part})*"
    return inner


REGEX = _regex()

REGULAR_FORMATS = {
    "date": DATE,
    "time": TIME,
    "date-time": f"{DATE}T{TIME}",
    "duration": DURATION,
    "uuid": UUID,
    **UUIDS,
    "ipv4": IPV4,
    "ipv6": IPV6,
    "hostname": HOSTNAME,
    "email": EMAIL,
    "uri": URI,
    "uri-reference": URI_REFERENCE,
    "iri": URI,
    "iri-reference": URI_REFERENCE,
    "idn-email": EMAIL,
    "idn-hostname": HOSTNAME,
    "json-pointer": POINTER,
    "relative-json-pointer": RELATIVE_POINTER,
    "uri-template": URI_TEMPLATE,
    "regex": REGEX,
}
"""format → regex in the engine's syntax, matching the whole text."""

ANNOTATION_FORMATS = frozenset(("password", "path", "file-path", "directory-path", "binary"))
"""Formats that say how to show or use a string and allow every text; so do all that the standard
does not know, but those spelled nearly like one it knows are refused."""
