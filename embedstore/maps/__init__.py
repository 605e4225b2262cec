"""Maps of a library: each track as a point of a plane, in every layer, so that what sounds alike lies together."""

from __future__ import annotations

from embedstore.maps.making import METHODS, estimate_seconds, make_map
from embedstore.maps.placing import place
from embedstore.maps.saved import open_map
from embedstore.maps.values import Map

__all__ = ["METHODS", "Map", "estimate_seconds", "make_map", "open_map", "place"]
