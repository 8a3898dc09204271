-- Takes the runtime of rlskit away. It stops, and changes nothing, while a policy, a default or a trigger rests on it:
-- nothing is dropped with cascade. Before it, take the rules away: rlskit uninstall --tables

begin;
set local search_path = pg_catalog, pg_temp;

drop procedure if exists rlskit.clear(regclass);
drop procedure if exists rlskit.mark(text, regclass, name, text);
drop function if exists rlskit.reassign(regclass, jsonb, text, text[]);
drop function if exists rlskit.reassign(regclass, jsonb, text, text);
drop function if exists rlskit.refuse_columns();
drop function if exists rlskit.note_new_owner();
drop function if exists rlskit.username_of(text);
drop function if exists rlskit.is_foreign(oid);
drop function if exists rlskit.as_uuid(text);
drop function if exists rlskit.list_of(text);
drop function if exists rlskit.identities(text[]);
drop function if exists rlskit.identities();
drop function if exists rlskit.identity();
drop function if exists rlskit.actor();
drop function if exists rlskit.claim(text);
drop function if exists rlskit.refuse_cursors();
drop function if exists rlskit.accept(text);
drop function if exists rlskit.signed_claims();
drop procedure if exists rlskit.add_key(text, bytea);
drop function if exists rlskit.is_signed();
drop procedure if exists rlskit.require_signatures(boolean);
drop table if exists rlskit.key;
drop table if exists rlskit.version;
drop schema if exists rlskit;

commit;
