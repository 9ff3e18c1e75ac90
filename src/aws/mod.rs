//! Adapters to the AWS SDK; the only folder that names an SDK type. Takes no decision.
