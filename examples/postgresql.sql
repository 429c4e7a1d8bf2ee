-- Once, as PostgreSQL's administrator, after `opencode-instances apply` or before it:
--     sudo -u postgres psql --file postgresql.sql
-- The role has the name of the instance's user, which is what `peer` in pg_hba.conf goes by. Everybody who may log in may
-- connect to every database of the server: these two lines, above all others of pg_hba.conf, leave this role its own.
--     local  website  opencode-website  peer
--     local  all      opencode-website  reject
CREATE ROLE "opencode-website" LOGIN;
CREATE DATABASE website OWNER "opencode-website";
