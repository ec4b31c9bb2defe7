/*
 * The reader of the event store on PostgreSQL (docs/reader.md).
 *
 * Writers draw positions from a sequence and commit in any order. The reader must deliver every committed event, and the
 * events of a stream in the order of their versions, although it never looks behind its checkpoint again.
 *
 * Sizes:     WRITERS, TRANSACTIONS of each, EVENTS at most in an append.
 * Variants:  BATCH              a transaction may append to both streams and then holds two floors.
 *            SAVEPOINT          an append may be rolled back to its savepoint and done again in the same transaction.
 *            PREPARED           a transaction may be prepared, whereby its floor moves to a holder without a process.
 *            SCAN_BY_PARTITION  the held floors are read in two steps, one for each half of the lock table.
 * BATCH and PREPARED do not go together, since the second floor and the prepared one share a place.
 *
 * Each WRONG_ name takes one rule out of the protocol, and a search with it must find a broken promise.
 */

#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef TRANSACTIONS
#define TRANSACTIONS 1
#endif
#ifndef EVENTS
#define EVENTS 2
#endif

#ifdef BATCH
#define APPENDS 2
#else
#define APPENDS 1
#endif
#ifdef SAVEPOINT
#define REPEATS 1
#else
#define REPEATS 0
#endif
#define STREAMS 2
#define DRAWS (EVENTS * (APPENDS + REPEATS))
#ifdef WRONG_SEQUENCE_CACHE
#define POSITIONS (WRITERS * (TRANSACTIONS * DRAWS + 1))
#else
#define POSITIONS (WRITERS * TRANSACTIONS * DRAWS)
#endif

/* Holders of floors: the writers, and then for each writer its second floor or its prepared transaction. */
#if defined(BATCH) || defined(PREPARED)
#define HOLDERS (WRITERS + WRITERS)
#else
#define HOLDERS WRITERS
#endif

/* The promises. A search ends when one of them is broken. */
bool skipped;         /* An event was or became visible at or below the checkpoint and had not been delivered. */
bool out_of_order;    /* An event was delivered that is not the next version of its stream. */

/* The database. */
byte sequence;                     /* The last position drawn; 0 when none was. */
byte floors[HOLDERS];              /* The floor that is locked, plus 1; 0 when none is. */
byte row_lock[STREAMS];            /* The writer that has locked the stream's row, plus 1. */
byte committed[STREAMS];           /* The committed version. */
byte stream_of[POSITIONS + 1];     /* Of an inserted row, plus 1; 0 when there is no row. */
byte version_of[POSITIONS + 1];
bool visible[POSITIONS + 1];

/* The reader's. */
byte checkpoint;
byte delivered[STREAMS];           /* The version delivered last. */

hidden byte k;                     /* A counter inside of indivisible steps, which must not end with a loop. */

/* A sequence that was never used reports 1 as its last value although nothing has been drawn. */
#define RAW_LAST_VALUE (sequence == 0 -> 1 : sequence)
#ifdef WRONG_WRITER_READS_RAW_SEQUENCE
#define WRITERS_LAST_VALUE RAW_LAST_VALUE
#else
#define WRITERS_LAST_VALUE sequence
#endif
#ifdef WRONG_READER_READS_RAW_SEQUENCE
#define READERS_LAST_VALUE RAW_LAST_VALUE
#else
#define READERS_LAST_VALUE sequence
#endif


/* The steps of an append. */

inline lock_stream() {
  atomic { row_lock[stream] == 0 -> row_lock[stream] = me + 1; version = committed[stream] }
}

/* Between reading the sequence and having the lock, others may draw: a floor can only be too low. */
inline take_floor() {
  floor = WRITERS_LAST_VALUE;
  d_step {
    if
#ifdef BATCH
    :: append == 2 && floors[me] != 0 -> floors[WRITERS + me] = floor + 1
#endif
#ifdef WRONG_FLOOR_ONCE_PER_TRANSACTION
    :: repeated > 0
#endif
    :: else -> floors[me] = floor + 1
    fi;
    floor = 0
  }
}

inline draw() {
  wanted = 1;
#if EVENTS > 1
  if
  :: wanted = EVENTS
  :: true
  fi;
#endif
  do
  :: wanted > 0 ->
     d_step {
#ifdef WRONG_SEQUENCE_CACHE
       /* A back end draws two positions at once and keeps the second one for later. */
       if
       :: cached != 0 -> mine[drawn] = cached; cached = 0
       :: else -> sequence = sequence + 2; mine[drawn] = sequence - 1; cached = sequence
       fi;
#else
       sequence++;
       mine[drawn] = sequence;
#endif
       drawn++;
       wanted--
     }
  :: else -> break
  od
}

/* The rows are there, and nobody else sees them yet. */
inline insert() {
  d_step {
    k = first;
    do
    :: k < drawn -> stream_of[mine[k]] = stream + 1; version_of[mine[k]] = version + k - first + 1; k++
    :: else -> break
    od;
    k = 0
  }
}

inline forget_rows() {
  k = 0;
  do
  :: k < drawn -> stream_of[mine[k]] = 0; version_of[mine[k]] = 0; mine[k] = 0; k++
  :: else -> break
  od;
  drawn = 0
}

/* A lock on a row ends in the instant in which its transaction does. */
inline unlock_streams() {
  k = 0;
  do
  :: k < STREAMS -> if :: row_lock[k] == me + 1 -> row_lock[k] = 0 :: else fi; k++
  :: else -> break
  od;
  k = 0
}

inline commit() {
  d_step {
    k = 0;
    do
    :: k < drawn ->
       visible[mine[k]] = true;
       committed[stream_of[mine[k]] - 1] = version_of[mine[k]];
       skipped = mine[k] <= checkpoint;
       assert(!skipped);
       mine[k] = 0;
       k++
    :: else -> break
    od;
    drawn = 0;
    unlock_streams()
  }
}

/* By a statement's error, by the client, or because the back end was killed. */
inline abort() {
  d_step { forget_rows(); unlock_streams() }
}

/* Advisory locks are given back after the transaction has become visible, one after the other. */
inline release_floors() {
  floors[me] = 0;
#if defined(BATCH) || defined(PREPARED)
  floors[WRITERS + me] = 0
#endif
}

proctype Writer(byte me) {
  byte done, append, repeated, stream, version, floor, first, wanted, drawn;
  byte mine[DRAWS];
#ifdef WRONG_SEQUENCE_CACHE
  byte cached;
#endif

  do
  :: done < TRANSACTIONS ->
     done++;
     append = 1;
choose:
     if
     :: stream = 0
     :: stream = 1
     fi;
one_append:
     first = drawn;
#if defined(WRONG_DRAW_BEFORE_FLOOR)
     lock_stream(); draw(); take_floor();
#elif defined(WRONG_DRAW_BEFORE_STREAM_LOCK)
     take_floor(); draw(); lock_stream();
#elif defined(WRONG_NO_FLOOR)
     lock_stream(); draw();
#else
     lock_stream(); take_floor(); draw();
#endif
     insert();

#ifdef SAVEPOINT
     /* Rolling back to the savepoint gives back the locks of the append; the positions drawn are dead. */
     if
     :: repeated < REPEATS && append == 1 ->
        d_step { repeated++; forget_rows(); unlock_streams(); floors[me] = 0 };
        goto choose
     :: true
     fi;
#endif
#ifdef BATCH
     /* Rows of streams are locked in their order. */
     if
     :: append == 1 && stream == 0 -> d_step { append = 2; stream = 1 }; goto one_append
     :: true
     fi;
#endif
#ifdef PREPARED
     if
     :: d_step { floors[WRITERS + me] = floors[me]; floors[me] = 0 }
     :: true
     fi;
#endif

#ifdef WRONG_RELEASE_BEFORE_COMMIT
     release_floors();
#endif
     if
     :: commit()
     :: abort()
     fi;
     release_floors();
     d_step { append = 0; repeated = 0; stream = 0; version = 0; first = 0 }
  :: else -> break
  od
}


/* The steps of the reader. */

inline read_head() {
  H = READERS_LAST_VALUE
}

inline lower_to(holder) {
  if
  :: floors[holder] != 0 && floors[holder] - 1 < W -> W = floors[holder] - 1
  :: else
  fi
}

inline scan_half(half) {
  d_step {
    k = 0;
    do
    :: k < HOLDERS -> if :: (floors[k] & 1) == half -> lower_to(k) :: else fi; k++
    :: else -> break
    od;
    k = 0
  }
}

inline scan_floors() {
#if defined(SCAN_BY_PARTITION)
  if
  :: scan_half(0); scan_half(1)
  :: scan_half(1); scan_half(0)
  fi
#elif defined(WRONG_SCAN_BY_HOLDER)
  /* A floor that moves to another holder meanwhile can be missed. */
  at = HOLDERS;
  do
  :: at > 0 -> d_step { at--; lower_to(at) }
  :: else -> break
  od
#else
  d_step {
    k = 0;
    do
#ifdef WRONG_PREPARED_OVERLOOKED
    :: k < WRITERS -> lower_to(k); k++
#else
    :: k < HOLDERS -> lower_to(k); k++
#endif
    :: else -> break
    od;
    k = 0
  }
#endif
}

inline take_snapshot() {
  d_step {
    k = 1;
    do
    :: k <= POSITIONS -> seen[k] = visible[k]; k++
    :: else -> break
    od;
    k = 0
  }
}

inline deliver(position) {
  out_of_order = version_of[position] != delivered[stream_of[position] - 1] + 1;
  assert(!out_of_order);
  delivered[stream_of[position] - 1] = version_of[position];
#ifndef WRONG_CHECKPOINT_FALLS
  /* Nobody looks at the row again: forgetting it keeps the number of states small. */
  visible[position] = false; stream_of[position] = 0; version_of[position] = 0
#endif
}

/* Everything up to W is delivered in the order of positions, and the checkpoint stored with the effects. */
inline advance() {
  d_step {
    if
#ifdef WRONG_CHECKPOINT_FALLS
    :: true ->
#else
    :: W > checkpoint ->
#endif
       k = checkpoint + 1;
       do
       :: k <= W ->
          if
          :: seen[k] -> deliver(k)
          :: else -> skipped = visible[k]; assert(!skipped)
          fi;
          k++
       :: else -> break
       od;
       checkpoint = W
    :: else
    fi;
    k = 1;
    do
    :: k <= POSITIONS -> seen[k] = false; k++
    :: else -> break
    od;
    H = 0; W = 0
  }
}

active proctype Reader() {
  byte H, W;
  bool seen[POSITIONS + 1];
#ifdef WRONG_SCAN_BY_HOLDER
  byte at;
#endif

end:
  do
#if defined(WRONG_FLOORS_BEFORE_HEAD)
  :: W = 255; scan_floors(); d_step { read_head(); if :: H < W -> W = H :: else fi }; take_snapshot(); advance()
#elif defined(WRONG_ROWS_BEFORE_FLOORS)
  /* One statement that reads both has a snapshot older than its look at the lock table. */
  :: d_step { read_head(); W = H }; take_snapshot(); scan_floors(); advance()
#else
  :: d_step { read_head(); W = H }; scan_floors(); take_snapshot(); advance()
#endif
  od
}

init {
  byte writer;
  atomic {
    do
    :: writer < WRITERS -> run Writer(writer); writer++
    :: else -> break
    od
  }
}
