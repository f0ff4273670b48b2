-- What every voter carries, also a witness that has nothing else.
CREATE TABLE IF NOT EXISTS lockstep.control (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  cluster_id text NOT NULL,
  backend text NOT NULL,
  system_identifier text NOT NULL,
  view bigint NOT NULL DEFAULT 0,
  members text[] NOT NULL DEFAULT '{}',
  complete_to bigint NOT NULL DEFAULT 0,
  pruned_to bigint NOT NULL DEFAULT 0
);

-- What the backend keeps as a voter about view and members: whom it obeys, who decides between halves, and what it has
-- accepted to be view + 1. A ballot is two numbers of 16 hexadecimal digits, so that texts sort as ballots do.
ALTER TABLE lockstep.control
  DROP COLUMN IF EXISTS ballot,
  ADD COLUMN IF NOT EXISTS promised text NOT NULL DEFAULT '' CHECK (promised ~ '^([0-9a-f]{16}[.][0-9a-f]{16})?$'),
  ADD COLUMN IF NOT EXISTS arbiter text NOT NULL DEFAULT '' CHECK (arbiter ~ '^((witness|file)/.*)?$'),
  ADD COLUMN IF NOT EXISTS acc_ballot text NOT NULL DEFAULT '' CHECK (acc_ballot ~ '^([0-9a-f]{16}[.][0-9a-f]{16})?$'),
  ADD COLUMN IF NOT EXISTS acc_members text[] NOT NULL DEFAULT '{}',
  ADD COLUMN IF NOT EXISTS acc_arbiter text NOT NULL DEFAULT '' CHECK (acc_arbiter ~ '^((witness|file)/.*)?$'),
  ADD COLUMN IF NOT EXISTS writer text NOT NULL DEFAULT '',
  ADD COLUMN IF NOT EXISTS beat bigint NOT NULL DEFAULT 0;

CREATE TABLE IF NOT EXISTS lockstep.secret (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  token text NOT NULL,
  capture_token text NOT NULL
);

-- What the token is compared by, so that the time taken says nothing of the token; kept, since every write asks for it.
ALTER TABLE lockstep.secret ADD COLUMN IF NOT EXISTS
  digest bytea GENERATED ALWAYS AS (sha256(decode(token, 'escape'))) STORED;

