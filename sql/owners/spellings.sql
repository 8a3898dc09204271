{names},
unsound as (
  -- Rows with an empty name: the check that rlskit puts on the column lets no update of them pass.
  select line from judged where spelling = 'malformed' and coalesce(name, '') = ''
),
meant as (
  -- A full name says whom it means; a bare one means whoever is known to go by it.
  select
    column_name, name, spelling, sum(rows)::bigint as times,
    coalesce(full_sub, bare_sub) as sub,
    coalesce({full_username}, bare_username) as username
  from judged
  where column_name in ({changing}) and spelling in ({others}) and line not in (select line from unsound)
  group by column_name, name, spelling, 5, 6
),
changed as (
  select
    meant.column_name, meant.name, meant.spelling, meant.times,
    -- NULL where it cannot be told: several people go by the name, or nobody who is known.
    case when by_sub.people = 1 and by_username.people = 1 then {becomes} end as becomes
  from meant
  left join bearer as by_sub on by_sub.name = meant.sub
  left join bearer as by_username on by_username.name = meant.username
)
select * from changed where becomes is distinct from name
