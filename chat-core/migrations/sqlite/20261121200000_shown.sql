-- The newest entry that is no checkpoint, as of the last summary. What a sender is told was delivered ends there: a checkpoint is not seen by its recipient, and
-- whoever could have one acknowledged in silence could watch when a device is on.
ALTER TABLE conversation ADD COLUMN shown INTEGER NOT NULL DEFAULT 0;
UPDATE conversation SET shown = head;
