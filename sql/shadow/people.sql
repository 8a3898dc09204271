-- All people at one table, in one scan of each: from how many of them the policies would hide rows, and how many. No name comes out.
with person as materialized (
  -- What each person's names are, the policies' own functions say, under the settings of that person: CASE asks after they are written.
  select
    row_number() over () as number,
    case
      when set_config('rlskit.sub', coalesce(sub, ''), true) is not null
        and set_config('rlskit.username', coalesce(username, ''), true) is not null
        and set_config('rlskit.claims', claims, true) is not null
      then jsonb_build_array({names})
    end as names
  from (
    select distinct sub::text as sub, username::text as username, jsonb_build_object({claims})::text as claims from {people}
  ) as given
),
called as materialized (
  -- One line for each name by which an owner column may know a person.
  select person.number as person, owner_column.place, name.name
  from person
  cross join lateral jsonb_array_elements(person.names) with ordinality as owner_column (names, place)
  cross join lateral jsonb_array_elements_text(owner_column.names) as name (name)
),
held as materialized (
  -- Rows whose owner columns hold the same are one line from here on.
  select
    {lists},
    count(*) as rows,
    row_number() over () as line
  from {stored}
  group by {numbers}
),
holds as (
  select held.line, owner_column.place, name.name
  from held
  cross join lateral (
    values
      {columns}
  ) as owner_column (place, names)
  cross join lateral unnest(owner_column.names) as name (name)
),
reached as materialized (
  select called.person, holds.line from called join holds using (place, name)
  union
  select person.number, held.line from person cross join held where {open}
),
seen as (
  select person.number, coalesce(sum(held.rows), 0) as rows
  from person
  left join reached on reached.person = person.number
  left join held on held.line = reached.line
  group by person.number
),
there as (
  select
    coalesce(sum(rows), 0) as rows,
    coalesce(sum(rows) filter (where line not in (select line from reached)), 0) as unread
  from held
)
select
  there.rows::bigint as rows,
  there.unread::bigint as unread,
  count(seen.number) as people,
  count(seen.number) - (select count(distinct person) from called) as nameless,
  count(*) filter (where seen.rows < there.rows) as losing,
  count(*) filter (where seen.rows = 0 and there.rows > 0) as blind,
  coalesce(percentile_disc(0.5) within group (order by there.rows - seen.rows), 0)::bigint as median,
  coalesce(max(there.rows - seen.rows), 0)::bigint as most
from there
left join seen on true
group by there.rows, there.unread
