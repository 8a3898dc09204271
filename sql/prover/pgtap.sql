-- What the rules promise, cell by cell, as pgTAP tests. Written by rlskit test --pgtap: write it again when rules or tables change.
--
-- Run it with   pg_prove -d DATABASE FILE   or   psql -X -d DATABASE -f FILE
-- as a superuser, in a database that has these tables with their rules, and pgTAP (create extension pgtap).
-- It stores rows of its own, asks as people of its own in the application's role, and takes all of it back at the end.
\unset ECHO
\set QUIET 1
\set ON_ERROR_STOP 1
\pset format unaligned
\pset tuples_only true
\pset pager off
\encoding UTF8

