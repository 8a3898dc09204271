"""Rows on any real schema: what nobody says is made up, and the server judges it."""

from rlskit.filler.inserter import Filler, insertion
from rlskit.filler.shapes import Shape

__all__ = ["Filler", "Shape", "insertion"]
