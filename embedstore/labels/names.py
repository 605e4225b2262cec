"""Who is credited, and what a track is called: names as people mean them, and names that name nobody and nothing."""

from __future__ import annotations

import re
import unicodedata

from embedstore.types import TrackLabels

__all__ = ["artist_keys", "credits_of", "key_of", "known_artists", "known_title", "normalise"]

_NOBODY = {
    *(
        "",
        "unknown",
        "unknown artist",
        "artist unknown",
        "various",
        "various artists",
        "va",
        "v a",
        "n a",
        "none",
        "nan",
    ),
    *("null", "traditional", "trad", "anonymous", "anon"),
}
_NO_TITLE = re.compile(r"|untitled|unknown|none|nan|null|intro|outro|interlude|((audio )?track|titel|piste)? ?\d*")
_FEATURING = re.compile(r"[\s(\[]+(?:feat|ft|featuring)\b\.?", re.IGNORECASE)


def normalise(text: str) -> str:
    """Reduce a name to what people mean by it.

    >>> normalise("Björk"), normalise("  AC/DC "), normalise("!!!")
    ('bjork', 'ac dc', '!!!')
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
    return " ".join(re.findall(r"[^\W_]+", plain)) or plain.strip()


def credits_of(labels: TrackLabels) -> list[str]:
    """List who is credited, guests each for themselves, as it is written.

    >>> credits_of(TrackLabels(artists=("Queen feat. David Bowie", "Various Artists")))
    ['Queen', ' David Bowie', 'Various Artists']
    """
    return [name for credit in labels.artists for name in _FEATURING.split(credit)]


def known_artists(labels: TrackLabels) -> set[str]:
    """Normalised names of everyone credited; empty if nobody is known.

    >>> sorted(known_artists(TrackLabels(artists=("Queen feat. David Bowie", "Various Artists"))))
    ['david bowie', 'queen']
    """
    return {normalise(name) for name in credits_of(labels)} - _NOBODY


def key_of(name: str) -> str:
    """Write a normalised name so that "The Beatles", "Beatles" and "AC/DC", "ACDC" are one each.

    >>> key_of("the beatles"), key_of("ac dc")
    ('beatles', 'acdc')
    """
    return name.removeprefix("the ").removesuffix(" the").replace(" ", "") or name


def artist_keys(labels: TrackLabels) -> set[str]:
    """Keys of all known artists."""
    return {key_of(name) for name in known_artists(labels)}


def known_title(labels: TrackLabels) -> str:
    """Normalised title; empty if there is none that tells tracks apart.

    >>> known_title(TrackLabels(title="So What!")), known_title(TrackLabels(title="Track 07"))
    ('so what', '')
    """
    title = normalise(labels.title)
    return "" if _NO_TITLE.fullmatch(title) else title
