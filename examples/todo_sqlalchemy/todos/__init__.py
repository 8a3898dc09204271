"""A small application of todos and shared notes: SQLAlchemy's models, Alembic's revisions, and the database decides who may do what."""
