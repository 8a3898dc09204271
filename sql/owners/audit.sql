{names},
rule (column_name, reads, accepts, compares_claim) as (
  values
    {rules}
),
known as (
  select
    judged.*,
    rule.reads,
    case judged.spelling
      when 'named' then true
      when 'full' then 'full' = any (rule.accepts)
      when 'sub' then 'sub' = any (rule.accepts) or judged.is_username and 'username' = any (rule.accepts)
      when 'username' then 'username' = any (rule.accepts)
      when 'other' then rule.accepts && array['sub', 'username']
      else false
    end or rule.compares_claim and coalesce(judged.name ~ '[^[:space:]]', false) as accepted
  from judged
  join rule on rule.column_name = judged.column_name
),
stored as (
  -- Each row: whether a rule reaches it, and why not.
  select
    rows,
    case
      when bool_or(accepted) then 'reached'
      when bool_or(spelling not in ('nobody', 'malformed')) then 'unmatched'
      when bool_or(spelling = 'malformed') then 'malformed'
      else 'nobody'
    end as reach
  from known
  where reads
  group by line, rows
)
select column_name, spelling, accepted, coalesce(accepted and people > 1, false) as shared, sum(rows)::bigint as times
from known
group by 1, 2, 3, 4
union all
select null, reach, null, null, sum(rows)::bigint
from stored
group by reach
