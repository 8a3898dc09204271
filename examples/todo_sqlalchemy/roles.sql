-- Once for a server, as a superuser: psql -f roles.sql postgres. Give both a password as you do, with \password for one.

create role todo_owner login; -- owns the tables and runs migrations; not a superuser, and bound by the rules as everybody is
create role todo_app login; -- runs the application, and owns nothing: the rules are for it
create database todo owner todo_owner;
