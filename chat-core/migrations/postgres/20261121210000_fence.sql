-- additive
--
-- A batch may come late: its gateway stood still, or what it had written was still on its way when it had given up. By then the device may have connected elsewhere and sent
-- the same again; and when every device has that, the row by which the late one would be known as a retry is gone. So it may append only what was sent on the newest
-- connection of each device.
--
-- To be called after log_append in the same statement: it then sees what was committed before the locks of that.
CREATE FUNCTION log_fence(m_device uuid[], m_epoch bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM unnest(m_device, m_epoch) i(device, epoch) JOIN log_device d ON d.device = i.device WHERE d.epoch > i.epoch) THEN
        RAISE EXCEPTION 'a device has connected anew' USING ERRCODE = '23K01';
    END IF;
END $$;
