-- Whether nothing of an earlier user's is left on this connection that would change who asks, or what is asked. One row, always.
-- Before it, the search_path was shown as it is, and then fixed.
select
  coalesce(current_setting('rlskit.sub', true), '') = ''
  and coalesce(current_setting('rlskit.username', true), '') = ''
  and coalesce(current_setting('rlskit.claims', true), '') in ('', '{}')
  and coalesce(current_setting('rlskit.actor', true), '') = ''
  and coalesce(current_setting('rlskit.token', true), '') = ''
  and current_user = session_user
  and current_setting('row_security') = 'on'
  as clean,
  (select reset_val from pg_settings where name = 'search_path') as search_path
