-- additive
--
-- Purging empties the tables from time to time: giving their pages back would take a lock against all that append, and the pages are soon wanted again. A
-- pause now and then leaves room for others while many are vacuumed.
DO $$
BEGIN
    FOR part IN 0..7 LOOP
        EXECUTE format('ALTER TABLE message_%s SET (vacuum_truncate = false, autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_cost_limit = 2000)', part);
    END LOOP;
END $$;
