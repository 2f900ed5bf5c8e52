-- additive
--
-- Whenever a table was vacuumed or analyzed, every session plans every statement on it anew: some milliseconds in each, for each of the tables that the way of a message touches, and these
-- came one after the other every few seconds also where little was sent. So vacuum waits for an amount that is worth it, and statistics are seldom taken: rows are found by their keys, whatever
-- the statistics say, and what they say changes little while messages come and go. A vacuum for what was inserted waits as well, since most of it is deleted soon.
DO $$
BEGIN
    FOR part IN 0..7 LOOP
        EXECUTE format('ALTER TABLE message_%s SET (autovacuum_analyze_threshold = 1000000, autovacuum_analyze_scale_factor = 1, autovacuum_vacuum_insert_threshold = 100000)', part);
    END LOOP;
END $$;
ALTER TABLE conversation SET (autovacuum_vacuum_threshold = 20000, autovacuum_analyze_threshold = 1000000, autovacuum_analyze_scale_factor = 1);
ALTER TABLE cursor SET (autovacuum_vacuum_threshold = 20000, autovacuum_analyze_threshold = 1000000, autovacuum_analyze_scale_factor = 1);
ALTER TABLE log_device SET (autovacuum_vacuum_threshold = 20000, autovacuum_analyze_threshold = 1000000, autovacuum_analyze_scale_factor = 1);
