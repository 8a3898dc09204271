-- The types of these columns, and all that they are made of: a domain's base, an array's elements, a range's bounds, a composite's fields.
with recursive part (oid) as (
  select column_.atttypid
  from pg_attribute as column_
  where column_.attrelid = any (%(oids)s::oid[]) and column_.attnum > 0 and not column_.attisdropped
  union
  select inner_.oid
  from part
  join pg_type as type_ on type_.oid = part.oid
  left join pg_range as range_ on type_.oid in (range_.rngtypid, range_.rngmultitypid)
  cross join lateral (
    select type_.typbasetype where type_.typtype = 'd'
    union all
    select type_.typelem where type_.typcategory = 'A'
    union all
    select range_.rngsubtype where range_.rngsubtype is not null
    union all
    select field.atttypid
    from pg_attribute as field
    where type_.typtype = 'c' and field.attrelid = type_.typrelid and field.attnum > 0 and not field.attisdropped
  ) as inner_ (oid)
)
select
  type_.oid,
  format_type(type_.oid, null) as name,
  type_.typcategory::text as category,
  case when type_.typcategory = 'A' and type_.typtype = 'b' then 'array' else
    case type_.typtype when 'd' then 'domain' when 'e' then 'enum' when 'r' then 'range' when 'm' then 'multirange' when 'c' then 'composite' else 'base' end
  end as kind,
  case type_.typtype when 'd' then type_.typbasetype when 'b' then type_.typelem else range_.rngsubtype end as inner_oid,
  type_.typtypmod as modifier,
  type_.typnotnull as not_null,
  array(select label.enumlabel::text from pg_enum as label where label.enumtypid = type_.oid order by label.enumsortorder) as labels,
  array(
    select field.atttypid
    from pg_attribute as field
    where type_.typtype = 'c' and field.attrelid = type_.typrelid and field.attnum > 0 and not field.attisdropped
    order by field.attnum
  ) as fields,
  array(
    select array[constraint_.conname::text, pg_get_constraintdef(constraint_.oid)]
    from pg_constraint as constraint_
    where constraint_.contypid = type_.oid and constraint_.contype = 'c'
    order by constraint_.conname
  ) as checks
from part
join pg_type as type_ on type_.oid = part.oid
left join pg_range as range_ on type_.oid in (range_.rngtypid, range_.rngmultitypid)
