/*
 * A reader that needs no locks, and why it was not taken (docs/reader.md).
 *
 * It delivers in the order of positions. At a gap it remembers, as evidence, a transaction id from which on nobody can be
 * the gap's owner, and steps over the gap when a later snapshot says that all older transactions have ended.
 *
 * Sizes:     WRITERS, each with one transaction of up to two positions.
 * Evidence:  OWN_ID      an id that the reader draws for itself after it has seen the gap.
 *            NEXT_ID     the next id to be given, as one would think that a snapshot's xmax is.
 *            WRONG_XMAX  what PostgreSQL's xmax is: one more than the highest id that has ended. The gap's owner may be
 *                        running with that very id or a higher one.
 *
 * WRONG_POSITION_BEFORE_ID draws positions before the transaction has an id, as nextval outside of an INSERT does.
 */

#ifndef WRITERS
#define WRITERS 2
#endif
#define POSITIONS (WRITERS + WRITERS)

/* The promise. A search ends when it is broken. */
bool skipped;         /* An event became visible at or below the checkpoint. */

/* The database. */
byte next_id = 1, last_ended, sequence;
byte running[WRITERS];             /* The id of the writer's transaction; 0 when it has none. */
bool visible[POSITIONS + 1];

/* The reader's. */
byte checkpoint;

hidden byte k;                     /* A counter inside of indivisible steps, which must not end with a loop. */

inline take_id(id) {
  id = next_id; next_id++
}

inline end_id(id) {
  if
  :: id > last_ended -> last_ended = id
  :: else
  fi
}

inline draw(position) {
  d_step { sequence++; position = sequence }
}

proctype Writer(byte me) {
  byte one, two;

#ifdef WRONG_POSITION_BEFORE_ID
  draw(one);
  d_step { take_id(running[me]) };
#else
  d_step { take_id(running[me]) };
  draw(one);
#endif
  if
  :: draw(two)
  :: true
  fi;
  /* A transaction ends and becomes visible in one instant. */
  if
  :: d_step {
       visible[one] = true;
       skipped = one <= checkpoint || (two != 0 && two <= checkpoint);
       assert(!skipped);
       if :: two != 0 -> visible[two] = true :: else fi;
       end_id(running[me]); running[me] = 0; one = 0; two = 0
     }
  :: d_step { end_id(running[me]); running[me] = 0; one = 0; two = 0 }
  fi
}

inline take_snapshot() {
  d_step {
#ifdef WRONG_XMAX
    xmax = last_ended + 1;
#else
    xmax = next_id;
#endif
    oldest = xmax;
    k = 0;
    do
    :: k < WRITERS -> if :: running[k] != 0 && running[k] < oldest -> oldest = running[k] :: else fi; k++
    :: else -> break
    od;
    k = 1; highest = 0;
    do
    :: k <= POSITIONS -> seen[k] = visible[k]; if :: seen[k] -> highest = k :: else fi; k++
    :: else -> break
    od;
    k = 0
  }
}

inline no_gap() {
  evidence = 0; gap = 0
}

active proctype Reader() {
  byte oldest, xmax, highest, evidence, gap;
  bool seen[POSITIONS + 1];

end:
  do
  :: true ->
#ifdef OWN_ID
     /* Before the snapshot that shows the gap still open, and in a statement of its own. */
     if
     :: gap != 0 && evidence == 0 -> d_step { take_id(evidence); end_id(evidence) }
     :: else
     fi;
#endif
     take_snapshot();
     d_step {
       do
       :: checkpoint < highest && seen[checkpoint + 1] -> checkpoint++; no_gap()
       :: checkpoint < highest && !seen[checkpoint + 1] && gap == checkpoint + 1 && evidence != 0 && oldest >= evidence ->
          checkpoint++; no_gap()
       :: else -> break
       od;
       if
       :: checkpoint == highest -> no_gap()
       :: checkpoint < highest && gap != checkpoint + 1 ->
          gap = checkpoint + 1;
#ifdef OWN_ID
          evidence = 0
#else
          evidence = xmax
#endif
       :: else
       fi;
       oldest = 0; xmax = 0; highest = 0;
       k = 1;
       do
       :: k <= POSITIONS -> seen[k] = false; k++
       :: else -> break
       od;
       k = 0
     }
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
