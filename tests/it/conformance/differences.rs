//! Where servers that others wrote answer otherwise than the sandbox, and why the sandbox does not follow them.

use super::Known;

/// Each step with the beginning of what that server answers.
pub(crate) const ALL: &[Known] = &[
    Known {
        server: "ministack",
        reason: "keys are compared by their text; AWS compares numbers by value",
        steps: &[("get them by another form of the key", "200 /Item/id=null"), ("write one key in two forms", "200")],
    },
    Known {
        server: "ministack",
        reason: "blobs are not decoded; on AWS a blob is base64 by protocol",
        steps: &[("put bytes that are no base64", "200")],
    },
    Known {
        server: "ministack",
        reason: "JSON of the wrong type is refused as a value; AWS cannot read it and says SerializationException",
        steps: &[("put a number as JSON", "400 ValidationException")],
    },
    Known {
        server: "ministack",
        reason: "an expression without a clause does nothing; AWS refuses it as a syntax error",
        steps: &[("update with an expression that is none", "200")],
    },
    Known {
        server: "ministack",
        reason: "stream calls are checked less: AWS's model bounds ARNs from 37 characters, pages to 1,000 records, and \
                 numbers to 21 to 40 digits; unknown shards are ResourceNotFoundException",
        steps: &[
            ("describe what is no stream", "400 ResourceNotFoundException"),
            ("read more than 1000 at once", "200"),
            ("read a shard that does not exist", "200"),
            ("read after a word", "400 TrimmedDataAccessException"),
        ],
    },
    Known {
        server: "ministack",
        reason: "switching a stream to what it is does nothing; AWS refuses it (UpdateTable reference)",
        steps: &[("turn on a stream that is on", "200"), ("turn it off again", "200")],
    },
    Known {
        server: "moto",
        reason: "tables are checked less: AWS's model has names of 3 to 255 of a-zA-Z0-9_.- and keys of S, N and B",
        steps: &[
            ("create a table with a name too short", "200"),
            ("create a table with a bad name", "200"),
            ("create a table with a key of truth values", "200"),
        ],
    },
    Known {
        server: "moto",
        reason: "what it does not expect ends in an error of its own, in HTML",
        steps: &[
            ("an operation that does not exist", "500"),
            ("put a value of no type", "500"),
            ("scan with no limit at all", "500"),
            ("scan after a bad key", "500"),
            ("describe what is no stream", "500"),
            ("read by a made-up iterator", "500"),
            ("read a shard that does not exist", "500"),
            ("read after no number", "500"),
            ("read after a word", "500"),
        ],
    },
    Known {
        server: "moto",
        reason: "a map with an empty name in it comes back changed; AWS keeps it",
        steps: &[("get it", "200 /Item={")],
    },
    Known {
        server: "moto",
        reason: "values are checked less: AWS's limits are in the naming rules and data types of its guide",
        steps: &[
            ("get by a key of another type", "200"),
            ("delete by a key of another type", "200"),
            ("put a set with a duplicate", "200"),
            ("put a set of numbers that are equal", "200"),
            ("put a value of two types", "200"),
            ("put bytes that are no base64", "200"),
            ("put 33 levels", "200"),
            ("put 39 digits", "200"),
            ("put a number too big", "200"),
        ],
    },
    Known {
        server: "moto",
        reason: "an item's size is that of its JSON; AWS counts names and values",
        steps: &[("put 400 KB", "400 ValidationException")],
    },
    Known {
        server: "moto",
        reason: "numbers stay as they were written; AWS trims zeros and writes them out",
        steps: &[("get them", "200 /Item={"), ("get them by another form of the key", "200 /Item/id={\"S\":\"n\"} ")],
    },
    Known {
        server: "moto",
        reason: "batches are hardly checked, and done up to the first fault; AWS refuses them as a whole",
        steps: &[
            ("write a batch of 26", "200"),
            ("write an empty batch", "200"),
            ("write a batch of no requests", "200"),
            ("put and delete one key", "200"),
            ("write one key in two forms", "200"),
            ("nothing of a bad batch was written", "200 /Item={\"id\""),
        ],
    },
    Known {
        server: "moto",
        reason: "AWS knows the table and misses the index: a matter of validation",
        steps: &[("query an index that does not exist", "400 ResourceNotFoundException")],
    },
    Known {
        server: "moto",
        reason: "streams: any label of a table will do, writes that change nothing are recorded, the Region is us-east-1, \
                 iterators and limits are not checked, nothing ever ends",
        steps: &[
            ("describe a stream that does not exist", "200"),
            ("read a stream that does not exist", "200"),
            ("read what happened", "200 /Records/0/eventName=\"INSERT\""),
            ("read more than 1000 at once", "200"),
            ("read none at once", "200"),
            ("read in a way that does not exist", "200"),
            ("turn on a stream that is on", "400 ResourceInUseException"),
            ("turn it off again", "200"),
            ("the stream can still be described", "500"),
            ("its end is shown by no next iterator", "200 /Records=[] /NextShardIterator=\"arn:"),
        ],
    },
];
