with held as materialized (
  -- One scan of the table; rows whose owner columns hold the same are one line from here on.
  select
    {lists},
    count(*) as rows,
    row_number() over () as line
  from {table} as stored
  group by {numbers}
),
name as (
  -- One line for each name. A single owner is a list of one; an empty list leaves a line without a name.
  select held.line, held.rows, owner_column.name as column_name, owner_column.spelled, given.place is not null as there, given.name
  from held
  cross join lateral (
    values
      {columns}
  ) as owner_column (name, names, spelled)
  left join lateral unnest(owner_column.names) with ordinality as given (name, place) on true
),
written as (
  select distinct name, {trusted} as listed from name where spelled and name like '%::%'{people}
),
person as (
  -- Whom the full names name. A name that no identity may have names nobody.
  select min(name) as name, sub, username, bool_or(listed) as listed
  from (
    select name, listed, split_part(name, '::', 1) as sub, substr(name, strpos(name, '::') + 2) as username from written
  ) as apart
  where name !~ '[[:cntrl:]]' and sub ~ '[^[:space:]]' and username ~ '[^[:space:]]'
    and length(sub) <= 256 and length(username) <= 256 and username !~ '^:|::'
    and (username = sub or username !~* '^[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}$')
  group by sub, username
),
bearer as (
  -- What people go by beside their full names: how many go by it and as what, and who the one is where that can be told.
  select
    called.name,
    count(distinct person.sub) as people,
    bool_or(called.as_sub) as is_sub,
    bool_or(not called.as_sub) as is_username,
    min(person.sub) filter (where listed) as sub,
    case
      when min(person.username) filter (where listed) = max(person.username) filter (where listed)
      then min(person.username) filter (where listed)
    end as username
  from person
  cross join lateral (values (sub, true), (username, false)) as called (name, as_sub)
  group by called.name
),
judged as materialized (
  -- Each name, and how it is spelled, as far as that is known.
  select
    name.line,
    name.rows,
    name.column_name,
    name.spelled,
    name.name,
    full_name.sub as full_sub,
    full_name.username as full_username,
    full_name.listed,
    bearer.people,
    bearer.sub as bare_sub,
    bearer.username as bare_username,
    coalesce(bearer.is_username, false) as is_username,
    case
      when not name.there then 'nobody'
      when not name.spelled then case when name.name ~ '[^[:space:]]' then 'named' else 'malformed' end
      when full_name.name is not null then 'full'
      when name.name ~ '[^[:space:]]' and name.name !~ '::|[[:cntrl:]]|^:(.*:)?$' and length(name.name) <= 256 then
        case
          when bearer.is_sub or name.name ~* '^[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}$' then 'sub'
          when bearer.is_username then 'username'
          else 'other'
        end
      else 'malformed'
    end as spelling
  from name
  left join person as full_name on full_name.name = name.name and name.spelled
  left join bearer on bearer.name = name.name and name.spelled
)
