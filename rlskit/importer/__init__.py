"""An existing database, read back as rules: what is understood is declared, what is not is kept and named. Nothing is changed."""

from rlskit.importer.reader import Imported, read
from rlskit.importer.translator import Note

__all__ = ["Imported", "Note", "read"]
