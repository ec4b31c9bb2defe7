/*
 * Appends on a condition: the dynamic consistency boundary (docs/reader.md).
 *
 * A decider reads the events that carry certain tags, decides, and appends on the condition that nothing with these tags
 * has come that it does not know. The reading follows reader.pml: up to W nothing can come any more, and what it sees
 * above W it remembers. Every append locks the rows of its tags before it draws positions, whether it has a condition or
 * not; a condition also locks its own tags. There are two tags, and each event carries one.
 *
 * Sizes:     DECIDERS, which choose any condition and any tag, and PLAIN appends without a condition.
 * Protocols: P_SET  nothing above W but what was seen: the right one.
 *            P_MAX  nothing above the highest position read.
 *            P_W    nothing above W, whether it was seen or not.
 *
 * Each WRONG_ name takes one rule out of the protocol. A search with it, with P_MAX or with P_W must find a broken promise.
 */

#ifndef DECIDERS
#define DECIDERS 2
#endif
#ifndef PLAIN
#define PLAIN 1
#endif

#define PROCESSES (DECIDERS + PLAIN)
#define POSITIONS PROCESSES
#define A 1                        /* Tags are bits, so that a condition is a set of them. */
#define B 2
#define NOTHING 0

/* The promises. A search ends when one of them is broken, or with two appends that wait for each other. */
bool overlooked;      /* An append on a condition was committed beside an event that it should have known. */
bool needless;        /* An append was refused although its decision had been shown every event that there is. */

/* The database. */
byte sequence;
byte floors[PROCESSES];            /* The floor that is locked, plus 1; 0 when none is. */
byte tag_lock[B + 1];              /* The process that has locked the row of a tag, plus 1. */
byte tag_of[POSITIONS + 1];
bool visible[POSITIONS + 1];

hidden byte k;                     /* A counter inside of indivisible steps, which must not end with a loop. */

#define FITS(position) (visible[position] && (tag_of[position] & condition))

#if defined(P_MAX)
#define BREAKS(position) (FITS(position) && position > highest)
#elif defined(P_W)
#define BREAKS(position) (FITS(position) && position > W)
#else
#define BREAKS(position) (FITS(position) && position > W && !seen[position])
#endif


/* The decision reads. */

inline scan_floors() {
  d_step {
    k = 0;
    do
    :: k < PROCESSES -> if :: floors[k] != 0 && floors[k] - 1 < W -> W = floors[k] - 1 :: else fi; k++
    :: else -> break
    od;
    k = 0
  }
}

inline read_events() {
  d_step {
    k = 1;
    do
    :: k <= POSITIONS -> if :: FITS(k) -> seen[k] = true; highest = k :: else fi; k++
    :: else -> break
    od;
    k = 0
  }
}


/* The append. */

inline lock(tag) {
  if
  :: atomic { (to_lock & tag) && tag_lock[tag] == 0 -> tag_lock[tag] = me + 1 }
  :: !(to_lock & tag)
  fi
}

inline lock_tags() {
#if defined(WRONG_CONDITION_NOT_LOCKED)
  to_lock = own_tag;
#elif defined(WRONG_PLAIN_APPEND_NOT_LOCKED)
  to_lock = (condition == NOTHING -> NOTHING : own_tag | condition);
#else
  to_lock = own_tag | condition;
#endif
#ifdef WRONG_LOCKS_UNSORTED
  if
  :: lock(A); lock(B)
  :: lock(B); lock(A)
  fi
#else
  lock(A); lock(B)
#endif
}

inline unlock(tag) {
  if
  :: tag_lock[tag] == me + 1 -> tag_lock[tag] = 0
  :: else
  fi
}

/* A statement of its own, whose snapshot is taken under the locks. */
inline check_condition() {
  d_step {
    k = 1;
    do
    :: k <= POSITIONS ->
       if :: BREAKS(k) -> refused = true :: else fi;
       if :: FITS(k) && !seen[k] -> news = true :: else fi;
       k++
    :: else -> break
    od;
    k = 0
  }
}

inline take_floor() {
  floor = sequence;
  floors[me] = floor + 1
}

inline draw() {
  d_step { sequence++; mine = sequence; tag_of[mine] = own_tag }
}

inline commit() {
#ifdef WRONG_UNLOCK_BEFORE_COMMIT
  d_step { unlock(A); unlock(B) };
#endif
  d_step {
    k = 1;
    do
    :: k <= POSITIONS ->
       overlooked = FITS(k) && !seen[k];
       assert(!overlooked);
       k++
    :: else -> break
    od;
    visible[mine] = true;
    unlock(A); unlock(B)
  }
}

proctype Append(byte me; byte own_tag; byte condition) {
  byte W, highest, to_lock, floor, mine;
  bool seen[POSITIONS + 1];
  bool refused, news;

  if
  :: condition != NOTHING ->
     W = sequence;
#ifndef WRONG_NO_FLOORS
     scan_floors();
#endif
     read_events()
  :: else
  fi;

#ifdef WRONG_CHECK_BEFORE_LOCKS
  check_condition(); lock_tags();
#else
  lock_tags(); check_condition();
#endif
  if
  :: refused ->
     needless = !news;
     assert(!needless);
     d_step { unlock(A); unlock(B) }
  :: else ->
     take_floor(); draw();
     if
     :: commit()
     :: d_step { tag_of[mine] = 0; unlock(A); unlock(B) }                /* The transaction is rolled back. */
     fi;
     floors[me] = 0
  fi
}

inline any(tags) {
  if
  :: tags = A
  :: tags = B
  fi
}

init {
  byte process, tag, tags;
  atomic {
    do
    :: process < PROCESSES ->
       any(tag);
       if
       :: process >= DECIDERS -> tags = NOTHING
       :: process < DECIDERS -> any(tags)
       :: process < DECIDERS -> tags = A | B
       fi;
       run Append(process, tag, tags);
       process++
    :: else -> break
    od
  }
}
