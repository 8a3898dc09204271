-- What `assert_no_leak` left on this connection, and nobody took away: NULL where there is nothing. One row, always.
-- A role and a search_path there always are: they are held against those of a connection on which nothing was left.
select
  pg_backend_pid() as pid,
  exists (select from pg_stat_activity where pid = %(pid)s) as is_alive, -- the server process of the connection that is looked for
  nullif(current_setting('rlskit.sub', true), '') as "rlskit.sub",
  nullif(current_setting('rlskit.username', true), '') as "rlskit.username",
  nullif(nullif(current_setting('rlskit.claims', true), ''), '{}') as "rlskit.claims",
  nullif(current_setting('rlskit.actor', true), '') as "rlskit.actor",
  nullif(current_setting('rlskit.token', true), '') as "rlskit.token",
  nullif(current_setting('rlskit.moving_to', true), '') as "rlskit.moving_to",
  current_setting('role') as role,
  current_setting('search_path') as search_path,
  nullif(current_setting('row_security'), 'on') as row_security,
  (select 'there' where to_regclass('pg_temp.rlskit_leak') is not null) as temporary_table,
  (select 'there' from pg_prepared_statements where name = 'rlskit_leak') as prepared_statement,
  (select 'there' from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() and objid = 1919709035 and granted) as advisory_lock,
  (select 'there' from pg_listening_channels() as channel where channel = 'rlskit_leak') as channel,
  (select 'there' from pg_cursors where name = 'rlskit_leak') as cursor
