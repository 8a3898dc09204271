"""A small application of todos and shared checklists, in which the database decides who may do what."""
