"""The tables of a bank's own store: its columns are what a purge, a worker or a reviewer selects by.

Every table with a column ``customer`` (a pseudonym) loses its rows when that customer is erased, every table with
``at`` (seconds since 1970, UTC) when the retention period is over. No column but ``sealed`` holds what somebody wrote.
"""

from sqlalchemy import Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

METADATA = MetaData()

STORE = Table(
    "fedbank_store",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", String(64), nullable=False),
)
CUSTOMERS = Table(
    "fedbank_customers",
    METADATA,
    Column("customer", String(32), primary_key=True),
    Column("wrapped_key", LargeBinary, nullable=False),
)
ANSWERS = Table(
    "fedbank_answers",
    METADATA,
    Column("request_id", String(64), primary_key=True),
    Column("customer", String(32), nullable=False, index=True),
    Column("at", Float(53), nullable=False, index=True),
    Column("sealed", LargeBinary, nullable=False),
)
FEEDBACK = Table(
    "fedbank_feedback",
    METADATA,
    Column("request_id", String(64), primary_key=True),
    Column("customer", String(32), nullable=False, index=True),
    Column("at", Float(53), nullable=False, index=True),
    Column("helpful", Boolean, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("reviewer", String(32)),
    Column("reviewed_at", Float(53)),
    Column("sealed", LargeBinary, nullable=False),
)
JOBS = Table(
    "fedbank_jobs",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("owner", String(32), nullable=False, index=True),
    Column("at", Float(53), nullable=False, index=True),
    Column("expires", Float(53), nullable=False),
    Column("total", Integer, nullable=False),
    Column("cancelled", Boolean, nullable=False),
)
JOB_ITEMS = Table(
    "fedbank_job_items",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("customer", String(32), nullable=False, index=True),
    Column("at", Float(53), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("worker", String(64)),
    Column("claimed_until", Float(53), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("fedbank_job_items_state", "state", "claimed_until"),
)
