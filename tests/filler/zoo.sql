-- Tables of every kind that has been seen to ask something of whoever stores a row; each `create table` is a test.
create extension citext;
create extension hstore;
create extension btree_gist;

create type mood as enum ('sad', 'ok', 'happy');
create type pair as (a int, b text);
create domain email as citext check (value ~ '^[a-z0-9.]+@[a-z]+\.[a-z]{2,3}$');
create domain positive as int not null check (value > 0);
create domain code as varchar(3) default 'abc' check (length(value) = 3);

-- Types.
create table numbers (
  id bigint generated always as identity primary key,
  a smallint not null, b int not null, c numeric(5, 2) not null, d real not null, e double precision not null, f money not null, g oid not null,
  h numeric not null, i boolean not null, doubled int generated always as (b * 2) stored
);
create table texts (
  a text not null, b varchar(3) not null, c char(5) not null, d "char" not null, e name not null, f citext not null, g email not null,
  h code not null, optional text, filled text not null default 'x'
);
create table moments (
  a date not null, b timestamp not null, c timestamptz not null, d time not null, e timetz not null, f interval not null
);
create table documents (a json not null, b jsonb not null, c hstore not null, d tsvector not null, e tsquery not null, f jsonpath not null);
create table bits (a bytea not null, b bit(4) not null, c bit varying(6) not null, d bit not null, e uuid not null, f pg_lsn not null);
create table addresses (a inet not null, b cidr not null, c macaddr not null, d macaddr8 not null);
create table figures (
  a point not null, b line not null, c lseg not null, d box not null, e path not null, f polygon not null, g circle not null
);
create table made_of_others (
  a text[] not null, b int[] not null, c mood[] not null, d pair[] not null, e varchar(2)[] not null, f email[] not null, g mood not null,
  h pair not null, i int4range not null, j tstzrange not null, k daterange not null, l nummultirange not null, m positive
);
create table nothing ();
create table "We""ird Tab%le" ("Na me" text not null check ("Na me" in ('it''s', '%s')), "select" int primary key);

-- What no two rows have in common.
create table uniques (
  a mood not null, b text primary key, c int4range not null, d smallint not null unique, e char(2) not null unique, f date not null unique,
  g timestamptz not null unique, h text[] not null unique, i bit(16) not null unique, j numeric(4, 2) not null unique, k uuid not null unique,
  l inet not null unique, m jsonb not null unique, n interval not null unique, o bytea not null unique, p boolean not null, q macaddr not null unique,
  unique (a, p), exclude using gist (c with &&)
);
create table booking (room int not null, during tstzrange not null, exclude using gist (room with =, during with &&));
create table nulls_alike (id serial primary key, a text, b int, unique nulls not distinct (a, b));
create table by_expression (id serial primary key, name text not null);
create unique index on by_expression (lower(name));
create table few (kind text not null check (kind in ('a', 'b', 'c', 'd', 'e')), level int not null check (level between 1 and 2), primary key (kind, level));

-- Checks.
create table words (
  a text not null check (a in ('open', 'closed')), b varchar(10) not null check (b in ('yes', 'no')), c text not null unique check (length(c) = 5),
  d char(2) not null unique check (d ~ '^[A-Z]{2}$'), e text not null check (e = upper(e) and length(e) between 3 and 8),
  f text not null check (f::int > 5), g text not null check (starts_with(g, 'inv-')), h text not null check (h <> '' and h = lower(h))
);
create table contacts (
  a text not null unique check (a ~* '^[A-Za-z0-9._%-]+@[A-Za-z0-9.-]+[.][A-Za-z]+$'), b text not null check (position('@' in b) > 1),
  c text not null check (c like '%_@__%.__%'), d text not null check (d like 'https://%'), e text not null check (e ~ '^\+?[1-9]\d{1,14}$'),
  f text not null unique check (f ~ '^[a-z0-9]+(?:-[a-z0-9]+)*$'), g text not null check (g ~ '^#[0-9a-f]{6}$'), h inet not null check (masklen(h) = 32)
);
create table amounts (
  a numeric not null check (a > 0), b numeric(3, 2) not null check (b > 0 and b < 1), c int not null check (c between 11 and 19),
  d int not null, e int not null, check (d < e and e < 500 and d > 400), f int not null check (f % 7 = 0), g int not null unique check (g between 1 and 1000),
  net numeric not null, tax numeric not null, gross numeric not null, check (gross = net + tax), h money not null check (h >= 0::money)
);
create table periods (
  a date not null, b date not null, check (a < b), check (a >= '2024-01-01'), c timestamptz not null check (c < now()),
  d timestamptz not null check (d > now()), e interval not null check (e > interval '10 days'), f daterange not null check (not isempty(f))
);
create table demands (
  id serial primary key, a text, b text, check (num_nonnulls(a, b) = 1), kind text not null check (kind in ('p', 'c')), company text,
  check (kind <> 'p' or company is not null), check (kind <> 'c' or company is null and a is not null),
  filled text default 'bad' check (filled <> 'bad'), flag boolean not null check (flag), felt mood not null check (felt <> 'sad')
);
create table contents (
  a jsonb not null check (a ? 'kind'), b jsonb not null check (jsonb_typeof(b) = 'array'), c text[] not null check (cardinality(c) >= 2), d int[] not null check (array_length(d, 1) = 3)
);

create table secrets (
  a bytea not null check (octet_length(a) = 32), b char(64) not null check (b ~ '^[0-9a-f]{64}$'), c text not null check (c similar to '(foo|bar)%'),
  d text not null check (length(d) >= 15 and length(d) <= 34 and d ~ '^[A-Z]{2}[0-9]{2}[A-Z0-9]+$'), e text not null check (regexp_match(e, '^v\d+\.\d+$') is not null)
);
create table plans (
  year smallint not null check (year between 1900 and 2100), month int not null check (month between 1 and 12), primary key (year, month),
  level int not null unique check (level in (10, 20, 30, 40, 50)), latitude double precision not null check (latitude >= -90 and latitude <= 90),
  days int[] not null check (days <@ array[0, 1, 2, 3, 4, 5, 6] and cardinality(days) > 0), starts timestamptz not null, ends timestamptz not null,
  check (ends > starts), check (ends - starts <= interval '8 hours'), share numeric(5, 4) not null check (share >= 0 and share < 1), at time not null check (at < '12:00'),
  a int not null, b int not null, c int not null, d int not null, e int not null, check (a < b), check (b < c), check (c < d), check (d < e)
);

-- Foreign keys.
create table country (code char(2) primary key, name text not null unique);
create table city (id int generated by default as identity primary key, country char(2) not null references country, name text not null, unique (country, name));
create table person (id uuid primary key default gen_random_uuid(), city_id int not null unique references city, boss uuid references person);
create table friends (a uuid not null references person, b uuid not null references person, primary key (a, b), check (a < b));
create table tenant (id serial primary key, name text not null);
create table member (tenant_id int not null references tenant, id int not null, mail text unique not null, primary key (tenant_id, id));
create table doc (
  tenant_id int not null, id serial, author int not null, editor int, primary key (tenant_id, id),
  foreign key (tenant_id, author) references member, foreign key (tenant_id, editor) references member
);
create table remark (
  id serial primary key, tenant_id int, doc_id int, person uuid references person, foreign key (tenant_id, doc_id) references doc match full,
  check (num_nonnulls(doc_id, person) = 1)
);
create table status (id int primary key, label text not null);
create table with_default_parent (id serial primary key, status int not null default 1 references status);
create schema other;
create table other.thing (id int primary key, tenant int not null references tenant);
create table is_a (id int primary key references other.thing, tenant int not null references tenant);

-- Around in a circle.
create table node (id serial primary key, parent int not null references node);
create table ring (id int generated always as identity primary key, next int not null unique references ring);
create table late_node (id uuid primary key, parent uuid not null references late_node deferrable);
create table hen (id serial primary key, egg int not null);
create table egg (id serial primary key, hen int not null unique references hen);
alter table hen add foreign key (egg) references egg deferrable;
create table rock (id serial primary key, scissors uuid not null);
create table scissors (id uuid primary key default gen_random_uuid(), paper int not null);
create table paper (id serial primary key, rock int not null references rock);
alter table scissors add foreign key (paper) references paper deferrable initially deferred;
alter table rock add foreign key (scissors) references scissors;
create table team (id serial primary key, captain int);
create table player (id serial primary key, team int not null references team);
alter table team add foreign key (captain) references player;

-- Partitions, children, triggers.
create table measured (region text not null, at timestamptz not null, value int, primary key (region, at)) partition by list (region);
create table measured_eu partition of measured for values in ('eu', 'ch') partition by range (at);
create table measured_eu_24 partition of measured_eu for values from ('2024-01-01') to ('2025-01-01');
create table low (n int not null) partition by range (n);
create table low_1 partition of low for values from (minvalue) to (-5000);
create table monthly (id int, at timestamp not null) partition by range (date_trunc('month', at));
create table monthly_may partition of monthly for values from ('2025-05-01') to ('2025-06-01');
create table hashed (id bigint primary key, felt mood not null) partition by hash (id);
create table hashed_0 partition of hashed for values with (modulus 2, remainder 0);
create table hashed_1 partition of hashed for values with (modulus 2, remainder 1);
create table of_hashed (id serial primary key, hashed bigint not null references hashed);
create table animal (id serial primary key, name text not null check (name ~ '^\w{4}$'));
create table dog (barks int not null check (barks % 7 = 0)) inherits (animal);
create table stamped (id serial primary key, name text not null, stamp timestamptz not null, shouted text);
create function stamp() returns trigger language plpgsql as $$ begin new.stamp := '2020-01-01'; new.shouted := upper(new.name); return new; end $$;
create trigger stamp before insert on stamped for each row execute function stamp();

-- A shop.
create schema shop;
create table shop.customer (id uuid primary key default gen_random_uuid(), email citext not null unique check (email ~ '^[^@]+@[^@]+$'), created_at timestamptz not null default now());
create table shop.category (id serial primary key, parent_id int references shop.category, slug text not null unique check (slug ~ '^[a-z-]+$'));
create table shop.product (
  sku varchar(12) primary key check (sku ~ '^[A-Z]{3}-\d{4,8}$'), category_id int not null references shop.category, price numeric(10, 2) not null check (price >= 0.01),
  weight_g int check (weight_g > 0), currency char(3) not null check (currency in ('EUR', 'USD', 'CHF')), attributes jsonb not null default '{}'
);
create table shop.stock (sku varchar(12) primary key references shop.product on delete cascade, amount int not null check (amount >= 0), reserved int not null default 0, check (reserved <= amount));
create table shop.purchase (
  id bigserial primary key, customer_id uuid not null references shop.customer, status text not null default 'new' check (status in ('new', 'paid', 'sent')),
  paid_at timestamptz, check ((status = 'paid') = (paid_at is not null)), number text not null unique check (number ~ '^\d{4}/\d{6}$')
);
create table shop.line (
  purchase_id bigint references shop.purchase, sku varchar(12) references shop.product, quantity smallint not null check (quantity between 1 and 99),
  unit_price numeric(10, 2) not null, total numeric(12, 2) generated always as (quantity * unit_price) stored, primary key (purchase_id, sku)
);
create table shop.voucher (code char(8) primary key check (code ~ '^[A-HJ-NP-Z2-9]{8}$'), percent int, amount numeric(6, 2), check ((percent is null) <> (amount is null)), check (percent between 1 and 100), valid tstzrange not null check (not isempty(valid)));

-- A forum, with a blog.
create schema forum;
create table forum.account (id bigint generated always as identity primary key, handle varchar(20) not null, check (handle ~ '^[a-z][a-z0-9_]{2,19}$'), birthday date check (birthday < current_date), role text not null default 'user');
create unique index on forum.account (lower(handle));
create table forum.board (id serial primary key, title text not null check (char_length(title) between 3 and 80), position int not null unique deferrable initially deferred);
create table forum.topic (id bigserial primary key, board_id int not null references forum.board, starter bigint not null references forum.account, title text not null check (btrim(title) <> ''), last_post bigint);
create table forum.post (id bigserial primary key, topic_id bigint not null references forum.topic on delete cascade, author bigint references forum.account on delete set null, guest text, body text not null check (length(body) > 9), check (author is not null or guest is not null), reply_to bigint, unique (topic_id, id), foreign key (topic_id, reply_to) references forum.post (topic_id, id));
alter table forum.topic add foreign key (last_post) references forum.post deferrable;
create table forum.vote (post_id bigint not null references forum.post, account_id bigint not null references forum.account, value smallint not null check (value in (-1, 1)), primary key (post_id, account_id));
create table forum.block (blocker bigint not null references forum.account, blocked bigint not null references forum.account, primary key (blocker, blocked), check (blocker <> blocked));
create table forum.tag (name citext primary key check (name ~ '^[a-z]+$' and length(name) <= 30), color text not null default '#000000' check (color ~* '^#[0-9a-f]{6}$'));
create table forum.tagged (topic_id bigint references forum.topic, tag citext references forum.tag, primary key (topic_id, tag));

-- Django's.
create schema django;
create table django.django_content_type (id integer not null primary key generated by default as identity, app_label varchar(100) not null, model varchar(100) not null, unique (app_label, model));
create table django.auth_permission (id integer not null primary key generated by default as identity, name varchar(255) not null, content_type_id integer not null references django.django_content_type deferrable initially deferred, codename varchar(100) not null, unique (content_type_id, codename));
create table django.auth_group (id integer not null primary key generated by default as identity, name varchar(150) not null unique);
create table django.auth_group_permissions (id bigint not null primary key generated by default as identity, group_id integer not null references django.auth_group deferrable initially deferred, permission_id integer not null references django.auth_permission deferrable initially deferred, unique (group_id, permission_id));
create table django.auth_user (id integer not null primary key generated by default as identity, password varchar(128) not null, last_login timestamp with time zone null, is_superuser boolean not null, username varchar(150) not null unique, first_name varchar(150) not null, last_name varchar(150) not null, email varchar(254) not null, is_staff boolean not null, is_active boolean not null, date_joined timestamp with time zone not null);
create table django.auth_user_groups (id bigint not null primary key generated by default as identity, user_id integer not null references django.auth_user deferrable initially deferred, group_id integer not null references django.auth_group deferrable initially deferred, unique (user_id, group_id));
create table django.django_session (session_key varchar(40) not null primary key, session_data text not null, expire_date timestamp with time zone not null);
create table django.django_admin_log (id integer not null primary key generated by default as identity, action_time timestamp with time zone not null, object_id text null, object_repr varchar(200) not null, action_flag smallint not null check (action_flag >= 0), change_message text not null, content_type_id integer null references django.django_content_type deferrable initially deferred, user_id integer not null references django.auth_user deferrable initially deferred);
