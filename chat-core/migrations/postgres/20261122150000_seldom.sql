-- additive
--
-- Whenever a table was vacuumed or analyzed, every session plans every statement on it anew: some milliseconds in each, for each of the tables that the way of a message touches, and these
-- came one after the other every few seconds also where little was sent. So both wait for an amount that is worth it. Until then a table may have no statistics at all: sessions are told to find
-- rows by their keys, whatever the statistics say. A vacuum for what was inserted waits as well, since most of it is deleted soon.
DO $$
BEGIN
    FOR part IN 0..7 LOOP
        EXECUTE format('ALTER TABLE message_%s SET (autovacuum_analyze_threshold = 50000, autovacuum_vacuum_insert_threshold = 100000)', part);
    END LOOP;
END $$;
ALTER TABLE conversation SET (autovacuum_vacuum_threshold = 20000, autovacuum_analyze_threshold = 50000);
ALTER TABLE cursor SET (autovacuum_vacuum_threshold = 20000, autovacuum_analyze_threshold = 50000);
ALTER TABLE log_device SET (autovacuum_vacuum_threshold = 20000, autovacuum_analyze_threshold = 50000);
