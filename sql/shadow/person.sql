-- One person at one table: how many rows there are, and how many of them the policies would show, and let be updated and deleted.
-- Rules let nobody update or delete what he may not read.
select
  count(*) as rows,
  count(*) filter (where {read}) as read,
  count(*) filter (where {update}) as update,
  count(*) filter (where {delete}) as delete
from {stored}
