{head}
begin;
set local lock_timeout = '5s';
set local row_security = off; -- an error for whom row security binds, instead of some of the rows
set local search_path = pg_catalog, pg_temp;

-- Every name that is to be spelled otherwise, and how; NULL where it stays because that cannot be told.
create temporary table rlskit_name on commit drop as
{spellings};
alter table pg_temp.rlskit_name add primary key (name, column_name);
analyze pg_temp.rlskit_name;

-- The triggers of the table find what they are used to.
set local search_path to default;

update {table} as stored
set
  {assignments}
where ({changing})
  -- A row with an empty name stays as it is: no check would let it pass.
  and {sound};

select column_name as "column", spelling,
  coalesce(pg_catalog.sum(times) filter (where becomes is not null), 0) as changed,
  coalesce(pg_catalog.sum(times) filter (where becomes is null), 0) as left_as_they_are
from pg_temp.rlskit_name
group by column_name, spelling
order by column_name, spelling;

commit;
