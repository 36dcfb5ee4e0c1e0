/* fastvec.pml: the handoff between a trainer and its workers, as a Promela model for Spin.  docs/protocol.md explains it.
 *
 * One step of the model is one access to memory that both sides use, or one system call; a worker may be killed between
 * any two.  A line `//@ FILE FUNCTION: TEXT` ties the step below it to the C, Cython or Python line it stands for;
 * test_protocol.py checks that the line is still there.
 *
 * Looking again while spinning or yielding changes nothing, so looks are not counted: a waiter finds its event, or goes to
 * sleep, after however long.  Nothing waits for time to pass, except where the protocol relies on it: a trainer that awaits
 * a dead worker, or was robbed of its wake-up by one (sync.h), wakes from its nap.  So a lost wake-up is a deadlock, which Spin reports.
 *
 * -DWORKERS=n   at most 2               -DDEATHS=n    workers that are killed, at any step
 * -DBATCH=n     workers in one recv     -DRESTARTS=n  dead workers that are replaced; the next death closes the run
 * -DROUNDS=n    batches                 -DMESSAGES    orders may end with a message on the pipe
 * -DCLOSE_EARLY the trainer may close wherever it is awake in recv
 * -DBROKEN_x    one of the mistakes that test_protocol.py lists
 */
#ifndef WORKERS
#define WORKERS 1
#endif
#ifndef BATCH
#define BATCH WORKERS
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef RESTARTS
#define RESTARTS 0
#endif

#define LIVES (WORKERS + RESTARTS)       /* processes, some of them one after the other in the same place */
#define BIT(i) (1 << (i))
#define PART 255                         /* of rows or a payload: half written */
#define CLOSE 1                          /* the kind of an order, in the low bit of cmd; a step and a reset are alike here */
#define RESULT(life, n) ((life) * 16 + (n)) /* what the n-th order of a process asks for, and what its rows then hold */

/* ---- shared memory ----------------------------------------------------------------------------------------------- */

byte cmd[WORKERS], payload[WORKERS], rows[WORKERS];
bit asleep_w[WORKERS];                   /* fv_mailbox.asleep */
byte done, messages;                     /* fv_ready.words[0] */
bit asleep_t;                            /* fv_ready.asleep */

/* ---- the kernel -------------------------------------------------------------------------------------------------- */

bit in_futex_w[WORKERS], in_futex_t;
bit in_pipe[WORKERS];                    /* a message from the worker */
bit shut[WORKERS];                       /* the trainer has closed its end */
bit born[LIVES], kill_sent[LIVES], killed[LIVES];
bit ended[LIVES];                        /* its pidfd is readable: no thread of it runs any more */

/* ---- the trainer's own memory, and what must hold ---------------------------------------------------------------------- */

bit flying[WORKERS];                     /* WorkerState.order != 0 */
bit said[WORKERS];                       /* WorkerState.message */
bit held[WORKERS];                       /* in the batch that the user has: he may read the rows at any time */
byte life[WORKERS];                      /* the process it takes for worker i */
byte sent[WORKERS];                      /* orders that this process was given */

bit robbed;                              /* a worker was killed between K3 and K4 of sync.h: the others now think the trainer awake */

#ifdef BROKEN_restart_before_the_end
#define DEAD(me) kill_sent[me]
#else
#define DEAD(me) ended[me]
#endif
#if WORKERS == 1
#define AWAITS_THE_DEAD (flying[0] && DEAD(life[0]))
#define READY (!flying[0] && !held[0])
#else
#define AWAITS_THE_DEAD (flying[0] && DEAD(life[0]) || flying[1] && DEAD(life[1]))
#define READY ((!flying[0] && !held[0]) + (!flying[1] && !held[1]))
#endif

/* ---- stores that come late ------------------------------------------------------------------------------------------- */

/* Some mistakes weaken the order of one store.  It then lies in a buffer, from which `memory` takes it at any time; a
 * read-modify-write or a system call of the same process waits for that (FLUSH), a load does not.  */
#if defined(BROKEN_post_not_seq_cst) || defined(BROKEN_post_relaxed)
#define LATE_TRAINER
#elif defined(BROKEN_trainer_sleep_not_seq_cst)
#define LATE_TRAINER
#elif defined(BROKEN_worker_sleep_not_seq_cst) || defined(BROKEN_announce_not_seq_cst) || defined(BROKEN_announce_relaxed)
#define LATE_WORKER
#endif
#if defined(LATE_TRAINER) || defined(LATE_WORKER)
bit late;
byte late_at, late_value;
#ifdef WAITED_FOR /* a control: whoever stores waits until it is in memory, so the mistake is none */
#define STORE(word, i, value) d_step { !late -> late_at = i; late_value = value; late = 1 }; (!late)
#else
#define STORE(word, i, value) d_step { !late -> late_at = i; late_value = value; late = 1 }
#endif
active proctype memory()
{
end:
    do
    :: d_step { late ->
#if defined(BROKEN_post_not_seq_cst)
        cmd[late_at] = late_value;
#elif defined(BROKEN_post_relaxed)
        payload[late_at] = late_value;
#elif defined(BROKEN_trainer_sleep_not_seq_cst)
        asleep_t = late_value;
#elif defined(BROKEN_worker_sleep_not_seq_cst)
        asleep_w[late_at] = late_value;
#elif defined(BROKEN_announce_not_seq_cst)
        done = done | BIT(late_at);
#else
        rows[late_at] = late_value;
#endif
        late = 0 }
    od
}
#endif
#ifdef LATE_TRAINER
#define FLUSH_T !late
#else
#define FLUSH_T true
#endif
#ifdef LATE_WORKER
#define FLUSH_W !late
#else
#define FLUSH_W true
#endif

/* ---- sync.h -------------------------------------------------------------------------------------------------------- */

/* K2 to K4. */
inline fv_wake(word, in_futex, FLUSHED) {
    if
    //@ sync.h fv_wake: if (atomic_load_explicit(word, memory_order_seq_cst) == 0) return;
    :: word == 0
    :: word == 1 ->
        //@ sync.h fv_wake: if (atomic_exchange_explicit(word, 0, memory_order_seq_cst) == 0) return;
        d_step { FLUSHED -> was = word; word = 0 };
        if
        //@ sync.h fv_wake: syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE, 1, NULL, NULL, 0);
        :: was -> d_step { in_futex = 0; was = 0 }
        :: else
        fi
    fi
}

/* W3: the kernel looks at the word and queues the caller in one step. */
inline futex_wait(word, in_futex, FLUSHED, OR_ELSE) {
    //@ sync.h fv_sleep: long rc = syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT, 1u, timeout_ns < 0 ? NULL : &limit, NULL, 0);
    d_step { FLUSHED -> in_futex = word };
    d_step { !in_futex || OR_ELSE -> in_futex = 0 }
}

/* ---- mailbox.h: the trainer's side --------------------------------------------------------------------------------- */

inline store_cmd(i, order) {
    //@ mailbox.h fv_post: atomic_store_explicit(&m->cmd, cmd, memory_order_seq_cst);
#ifdef BROKEN_post_not_seq_cst
    STORE(cmd, i, ((cmd[i] >> 1) + 1) << 1 | order)
#else
    cmd[i] = ((cmd[i] >> 1) + 1) << 1 | order
#endif
}

inline fv_post(i, order) {
#ifdef BROKEN_post_wakes_first
    fv_wake(asleep_w[i], in_futex_w[i], FLUSH_T);
    store_cmd(i, order)
#else
    store_cmd(i, order);
    //@ mailbox.h fv_post: fv_wake(&m->asleep);
    fv_wake(asleep_w[i], in_futex_w[i], FLUSH_T)
#endif
}

/* Payload, then cmd: hands the rows over. */
inline order(i) {
    d_step { held[i] = 0; flying[i] = 1; sent[i]++ };
    //@ pool.pyx order: self.boxes.box[u].slot = w.slot
#ifdef BROKEN_post_relaxed
    STORE(payload, i, RESULT(life[i], sent[i]));
#else
    payload[i] = PART;
    payload[i] = RESULT(life[i], sent[i]);
#endif
    //@ pool.pyx order: fv_trace(self.ring, FV_SENT, now, fv_post(&self.boxes.box[u], what, now), u, w.slot)
    fv_post(i, 0)
}

/* fv_take, and what Pool.collect does with the bits. */
inline collect() {
    if
    //@ mailbox.h fv_take: if (atomic_load_explicit(&r->words[k].done, memory_order_seq_cst) == 0) return 0;
    :: done == 0
    :: done != 0 ->
        //@ mailbox.h fv_take: uint64_t done = atomic_exchange_explicit(&r->words[k].done, 0, memory_order_seq_cst);
#ifdef BROKEN_take_not_atomic
        bits = done;
        done = 0;
#else
        d_step { FLUSH_T -> bits = done; done = 0 };
#endif
        //@ mailbox.h fv_take: *messages = atomic_load_explicit(&r->words[k].messages, memory_order_relaxed) & done;
        heard = messages & bits;
        //@ mailbox.h fv_take: if (*messages) atomic_fetch_and_explicit(&r->words[k].messages, ~*messages, memory_order_relaxed);
        messages = messages & ~heard;
        //@ pool.pyx ready: self.unit[u].order = 0
        d_step {
            for (k : 0 .. WORKERS - 1) {
                if
                :: bits & BIT(k) -> assert(flying[k]); flying[k] = 0; said[k] = (heard & BIT(k)) != 0
                :: else
                fi
            }
            bits = 0; heard = 0; k = 0
        }
    fi
}

inline fv_park_trainer() {
    //@ mailbox.h fv_park_trainer: atomic_store_explicit(&r->asleep, 1, memory_order_seq_cst);
#ifdef BROKEN_trainer_sleep_not_seq_cst
    STORE(asleep_t, 0, 1);
#else
    asleep_t = 1;
#endif
    if
#ifdef BROKEN_trainer_no_recheck
    :: true ->
#else
    //@ mailbox.h fv_any_ready: if (atomic_load_explicit(&r->words[k].done, memory_order_seq_cst)) return 1;
    :: done != 0
    :: done == 0 ->
#endif
        //@ mailbox.h fv_park_trainer: if (!fv_any_ready(r, num_words)) rc = fv_sleep(&r->asleep, timeout_ns);
#ifdef BROKEN_trainer_sleeps_without_limit
        futex_wait(asleep_t, in_futex_t, FLUSH_T, false)
#else
        futex_wait(asleep_t, in_futex_t, FLUSH_T, (AWAITS_THE_DEAD || robbed))
#endif
    fi;
    //@ mailbox.h fv_park_trainer: atomic_store_explicit(&r->asleep, 0, memory_order_seq_cst);
    d_step { FLUSH_T -> asleep_t = 0; robbed = 0 }
}

/* ---- mailbox.h: the worker's side ---------------------------------------------------------------------------------- */

inline fv_await_order() {
    do
    //@ mailbox.h fv_await_order: while ((cmd = atomic_load_explicit(&m->cmd, memory_order_acquire)) == *last) {
    :: d_step { cmd[i] != last -> last = cmd[i] }; break
    :: cmd[i] == last ->
        //@ mailbox.h fv_await_order: atomic_store_explicit(&m->asleep, 1, memory_order_seq_cst);
#ifdef BROKEN_worker_sleep_not_seq_cst
        STORE(asleep_w, i, 1);
#else
        asleep_w[i] = 1;
#endif
        if
#ifdef BROKEN_worker_no_recheck
        :: true ->
#else
        //@ mailbox.h fv_await_order: if (atomic_load_explicit(&m->cmd, memory_order_seq_cst) == *last) {
        :: cmd[i] != last
        :: cmd[i] == last ->
#endif
            //@ mailbox.h fv_await_order: fv_sleep(&m->asleep, -1);
            futex_wait(asleep_w[i], in_futex_w[i], FLUSH_W, false)
        fi;
        //@ mailbox.h fv_await_order: atomic_store_explicit(&m->asleep, 0, memory_order_seq_cst);
        d_step { FLUSH_W -> asleep_w[i] = 0 }
    od
}

inline set_done() {
    //@ mailbox.h fv_announce: atomic_fetch_or_explicit(&r->words[i / 64].done, bit, memory_order_seq_cst);
#if defined(BROKEN_announce_not_seq_cst)
    STORE(done, i, 0)
#elif defined(BROKEN_announce_not_atomic)
    seen = done;
    done = seen | BIT(i)
#elif defined(BROKEN_announce_relaxed)
    done = done | BIT(i)
#else
    d_step { FLUSH_W -> done = done | BIT(i) }
#endif
}

inline fv_announce() {
    if
    //@ mailbox.h fv_announce: if (message) atomic_fetch_or_explicit(&r->words[i / 64].messages, bit, memory_order_relaxed);
    :: message -> messages = messages | BIT(i)
    :: else
    fi;
#ifdef BROKEN_announce_wakes_first
    fv_wake(asleep_t, in_futex_t, FLUSH_W);
    set_done()
#else
    set_done();
    //@ mailbox.h fv_announce: fv_wake(&r->asleep);
    fv_wake(asleep_t, in_futex_t, FLUSH_W)
#endif
}

inline write_rows() {
    //@ worker.pyx run: self.host.step(m.action_slot, m.slot)
#ifdef BROKEN_announce_relaxed
    assert(!held[i]);
    STORE(rows, i, RESULT(me, n))
#else
    d_step { assert(!held[i]); rows[i] = PART };         /* no row is written while the user may read it */
    d_step { assert(!held[i]); rows[i] = RESULT(me, n) }
#endif
}

/* The pipe takes a small message at once, a large one only when the trainer reads it. */
inline send_message() {
    if
    :: message ->
        //@ process.py _obey: conn.send_bytes(message)
        in_pipe[i] = 1;
        if
        :: true
        :: !in_pipe[i] || shut[i]
        fi
    :: else
    fi
}

/* ---- a worker: process `me`, which serves as worker i ------------------------------------------------------------------ */

proctype worker(byte i; byte me)
{
    byte last, n, seen;
    bit message, was;
    {
        do
        ::  fv_await_order();
            if
            :: last & CLOSE -> break
            :: else
            fi;
            n++;
            assert(payload[i] == RESULT(me, n)); /* no order is lost, repeated, half read, or meant for somebody else */
#ifdef MESSAGES
            if
            :: message = 0
            :: message = 1
            fi;
#endif
#ifdef BROKEN_announce_before_rows
            fv_announce();
            write_rows();
            send_message();
#elif defined(BROKEN_message_before_announce)
            write_rows();
            if
            :: message -> in_pipe[i] = 1; (!in_pipe[i] || shut[i])
            :: else
            fi;
            fv_announce();
#else
            write_rows();
            //@ worker.pyx announce: fv_announce(self.boxes.ready, self.index, message)
            fv_announce();
            send_message();
#endif
            message = 0
        od
    } unless { killed[me] };
    /* Of the dead nothing is left in the kernel; their words in the arena stay as they are. */
    atomic {
        if
        :: life[i] == me -> in_futex_w[i] = 0
        :: else
        fi;
        robbed = robbed || was;
        ended[me] = 1; last = 0; n = 0; seen = 0; message = 0; was = 0
    }
}

/* ---- what befalls a run from outside ------------------------------------------------------------------------------------ */

active proctype fate()
{
    byte deaths = DEATHS, me;
end:
    do
    :: deaths > 0 ->
        d_step { deaths--; me = 0 };
        do
        :: me < LIVES - 1 -> me++
        :: break
        od;
endwait:
        atomic { born[me] && !kill_sent[me] -> kill_sent[me] = 1 };
        killed[me] = 1 /* the signal takes effect a while after it was sent */
    :: break
    od
}

/* ---- the trainer ----------------------------------------------------------------------------------------------------------- */

inline begin(i) {
    atomic { born[life[i]] = 1; run worker(i, life[i]) }
}

/* Pool.dead_worker and VecEnv._go_on_without, for worker i. */
inline replace_if_dead(i) {
    if
    //@ pool.pyx dead_worker: if self.life[u].revents and self.unit[u].order:
    :: flying[i] && DEAD(life[i]) ->
#ifndef BROKEN_restart_without_a_look
        //@ pool.pyx dead_worker: self.collect()  # what it finished before it died is valid
        collect();
#endif
        if
        :: flying[i] && next < LIVES ->
#ifndef BROKEN_restart_keeps_message_bit
            //@ mailbox.h fv_forget_message: atomic_fetch_and_explicit(&r->words[i / 64].messages, ~((uint64_t)1 << (i % 64)), memory_order_relaxed);
            messages = messages & ~BIT(i);
#endif
            d_step { in_pipe[i] = 0; life[i] = next; next++; sent[i] = 0 };
#ifdef BROKEN_restart_orders_after_the_start
            begin(i);
            order(i)
#else
            //@ pool.pyx _order_anew: fv_post(&self.boxes.box[worker], FV_RESET, fv_now())
            order(i);
            //@ vec_env.py _go_on_without: new = self._recovery.start(self._workers, worker)
            begin(i)
#endif
        :: flying[i] && next == LIVES -> goto close
        :: !flying[i]
        fi
    :: else
    fi
}

/* What worker i put on its pipe; nothing, if it died before. */
inline hear(i) {
    //@ pool.pyx _hear: kind, content = self.conns[worker].recv()
    if
    :: in_pipe[i] -> in_pipe[i] = 0
    :: !in_pipe[i] && ended[life[i]]
    fi;
    said[i] = 0
}

active proctype trainer()
{
    byte i, k, bits, heard, round, next = WORKERS;
    bit was;
    for (i : 0 .. WORKERS - 1) {
        life[i] = i;
        held[i] = 1;
        begin(i)
    }
    do
    :: round == ROUNDS -> break
    :: round < ROUNDS ->
        round++;
        /* send */
        for (i : 0 .. WORKERS - 1) {
            if
            :: held[i] -> order(i)
            :: else
            fi
        }
        /* recv */
        do
        ::  collect();
            if
            //@ pool.pyx wait: if self.enough(units):
            :: READY >= BATCH -> break
#ifdef CLOSE_EARLY
            :: READY < BATCH -> goto close
#endif
            :: READY < BATCH ->
                //@ pool.pyx wait: rc = fv_park_trainer(self.boxes.ready, self.boxes.num_words, min(LIFE_NS, deadline - now))
                fv_park_trainer();
                for (i : 0 .. WORKERS - 1) {
                    replace_if_dead(i)
                }
            fi
        od;
        for (i : 0 .. WORKERS - 1) {
            if
            :: !flying[i] && !held[i] ->
                if
                :: said[i] -> hear(i)
                :: else
                fi;
                assert(rows[i] == RESULT(life[i], sent[i])); /* whole, and of the step that was ordered */
                held[i] = 1
            :: else
            fi
        }
    od;
close:
    i = 0; /* (a label before `for` would name its loop, without the start) */
    for (i : 0 .. WORKERS - 1) {
        held[i] = 0;
        //@ process.py _ask_to_leave: boxes.close(worker.index)
        fv_post(i, CLOSE);
        //@ process.py _ask_to_leave: worker.conn.close()  # one that waits to be read, or has not begun to serve, is told by this
        shut[i] = 1
    }
    for (i : 0 .. WORKERS - 1) {
        ended[life[i]] /* without its being killed */
    }
}
