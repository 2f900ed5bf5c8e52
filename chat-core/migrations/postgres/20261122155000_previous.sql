-- additive
--
-- The seq of the row before it on its sender's chain (see the next migration), which may be purged; 0 if it is the first. NULL if it is on no chain. Apart from what comes next, so that no lock
-- is held while another is waited for.
ALTER TABLE message_run ADD COLUMN previous bigint;
