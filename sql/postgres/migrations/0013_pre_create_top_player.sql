-- What the weekly crawl of clans works through: players at the top of a board, and the clans that
-- each was found in. Between its assets, and for a run that goes on where a killed one ended.
-- Retention: until the player is at no top any more, at the next choice.
CREATE TABLE streaming.top_player (
    membership_id bigint PRIMARY KEY,
    membership_type integer NOT NULL CHECK (membership_type NOT IN (0, 4)),  -- nobody answers for those
    best_rank bigint NOT NULL,
    group_ids bigint[],                    -- clans of the last answer; null: never asked
    asked_at timestamptz(3)
);

-- Players whom a batch asked a queue for: the next batch leaves them out for a while, for the queue
-- may be long. Retention: 60 days.
CREATE TABLE streaming.asked_player (
    queue text NOT NULL,
    membership_id bigint NOT NULL,
    asked_at timestamptz(3) NOT NULL DEFAULT now(),
    PRIMARY KEY (queue, membership_id)
);
