/* fastvec_env.h: how a compiled env is stepped by fastvec's workers without Python.
 *
 * A Python object is a compiled env when it has
 *   observation_space, action_space   a fastvec.Spec or a gymnasium space: one row of each
 *   num_agents                        how many rows it writes
 *   __fastvec_env__()                 a PyCapsule named FASTVEC_ENV_CAPSULE around a fastvec_env
 * and may have
 *   fields        {name: fastvec.Spec}: further arrays it writes, at most FASTVEC_MAX_EXTRA
 *   take_infos()  a dict, asked for after step or reset returned FASTVEC_INFO
 *   close()       called once, before the worker ends
 *
 * The struct belongs to the Python object: the worker keeps the object alive for as long as it uses the struct.
 * Its functions are called by one thread at a time, without the GIL; they must not touch Python objects, and must not
 * keep a pointer out of fastvec_rows: the next call may get others.
 */
#ifndef FASTVEC_ENV_H
#define FASTVEC_ENV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FASTVEC_ENV_ABI 1u
#define FASTVEC_ENV_CAPSULE "fastvec.env.v1"
#define FASTVEC_MAX_EXTRA 8

enum {
    FASTVEC_OK = 0,
    FASTVEC_INFO = 1,  /* done, and take_infos() has something to say */
    FASTVEC_ERROR = -1 /* error(self) says what went wrong; the caller of step() or reset() gets it as an exception */
};

/* The env's own rows of the shared arena, row after row without gaps (row r of the observations starts at
 * observations + r * observation_nbytes).  Valid during the call only.
 * When reset is called, rewards, terminations and truncations are all 0 and masks all 1: an env whose rows are always
 * in use never needs to touch masks.  step writes every row of observations, rewards, terminations and truncations,
 * and of masks if any of them ever changes.  A mask is 1 where the row's agent took part in this step (after a reset:
 * takes part in the episode that begins); rewards and flags of rows masked 0 mean nothing and should be 0. */
typedef struct fastvec_rows {
    const void *actions; /* [num_agents] rows, what the policy chose on the observations written last; unset in reset */
    void *observations;
    float *rewards;
    uint8_t *terminations;
    uint8_t *truncations;
    uint8_t *masks;
    void *extra[FASTVEC_MAX_EXTRA]; /* the env's own fields, in the order of its `fields` */
} fastvec_rows;

typedef struct fastvec_env {
    uint32_t abi;              /* FASTVEC_ENV_ABI */
    uint32_t num_agents;       /* rows */
    size_t observation_nbytes; /* bytes of one row; checked against observation_space */
    size_t action_nbytes;      /* likewise action_space */
    void *self;                /* handed to every function */

    /* Begins new episodes everywhere.  seed: NULL goes on with the env's random stream; otherwise starts it anew, and
     * the same seed must give the same episodes. */
    int (*reset)(void *self, const fastvec_rows *rows, const uint64_t *seed);

    /* One step of every agent.  The env resets its own finished worlds: the observation of a finished row is then the
     * first of the next episode, its reward and flags the last of the old one. */
    int (*step)(void *self, const fastvec_rows *rows);

    /* What went wrong, after FASTVEC_ERROR: a string that stays valid until the next call.  May be NULL. */
    const char *(*error)(void *self);
} fastvec_env;

#ifdef __cplusplus
}
#endif
#endif
