-- Rows that must not pass the insert-time views: filled into instance_staging, attached from there.

-- name: empty_staging
TRUNCATE TABLE instance_staging;

-- name: staged_months
SELECT toYYYYMM(date_completed) AS month, count() AS rows
FROM instance_staging
GROUP BY month
ORDER BY month;

-- name: select_moved
-- Rows of the staged ids under another date: another key, which no revision replaces.
-- Skip index instance_id_range.
SELECT DISTINCT date_started, date_completed
FROM instance
WHERE instance_id IN (SELECT instance_id FROM instance_staging)
  AND (date_completed, instance_id) NOT IN (SELECT date_completed, instance_id FROM instance_staging);

-- name: delete_moved
DELETE FROM instance
WHERE instance_id IN (SELECT instance_id FROM instance_staging)
  AND (date_completed, instance_id) NOT IN (SELECT date_completed, instance_id FROM instance_staging);

-- name: attach_month
-- Copies the parts and fires no view. Repeated, it leaves equal rows that FINAL shows once.
ALTER TABLE instance ATTACH PARTITION {month:UInt32} FROM instance_staging;
