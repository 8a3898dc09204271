-- Plain tables, as the role that owns them makes them. Who may do what stands in rlskit.toml, and nowhere else:
-- `rlskit apply` brings the policies and privileges, and the default by which a new row is its creator's.

create table category (
  name text primary key
);

insert into category (name) values ('errand'), ('home'), ('work');

create table todo (
  id bigint generated always as identity primary key,
  content text not null,
  done boolean not null default false,
  category text references category (name),
  owner text
);

create table checklist (
  id bigint generated always as identity primary key,
  title text not null,
  entries text[] not null default '{}',
  owner text,
  editors text[] not null default '{}'
);
