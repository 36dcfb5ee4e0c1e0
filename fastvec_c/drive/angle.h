/* angle.h: sine, cosine and wrapping that give the same bits on every machine (libm's float kernels do not). */
#ifndef FASTVEC_DRIVE_ANGLE_H
#define FASTVEC_DRIVE_ANGLE_H

#define DRIVE_PI 3.14159274f
#define DRIVE_TWO_PI 6.28318548f

/* An angle in [-3 pi, 3 pi] as the equal one in [-pi, pi].  Adding and subtracting 1.5 * 2^23 rounds to a whole number
 * of turns; comparisons would keep compilers from vectorising loops over this. */
static inline float drive_wrap(float a)
{
    float turns = (a / DRIVE_TWO_PI + 12582912.0f) - 12582912.0f;
    return a - turns * DRIVE_TWO_PI;
}

/* Any finite angle, likewise. */
static inline float drive_wrap_any(float a)
{
    return a > DRIVE_PI || a < -DRIVE_PI ? (float)(a - 6.283185307179586 * __builtin_rint(a / 6.283185307179586)) : a;
}

/* Taylor series in double on [-pi/4, pi/4], where the first dropped term is below 1e-12: right to a float's last bit
 * but for the rarest ties. */
static inline void drive_sincos(float angle, float *sine, float *cosine)
{
    double a = angle, k = __builtin_rint(a * 0.6366197723675814);
    double r = (a - k * 1.5707963267948966) - k * 6.123233995736766e-17, q = r * r;
    double s = r * (1 + q * (-1.0 / 6 + q * (1.0 / 120 + q * (-1.0 / 5040 + q * (1.0 / 362880 + q * (-1.0 / 39916800))))));
    double c = 1 + q * (-0.5 + q * (1.0 / 24 + q * (-1.0 / 720 + q * (1.0 / 40320 + q * (-1.0 / 3628800 + q * (1.0 / 479001600))))));
    int quadrant = (int)(long long)k & 3;
    double rs = quadrant & 1 ? c : s, rc = quadrant & 1 ? s : c;
    *sine = (float)(quadrant & 2 ? -rs : rs);
    *cosine = (float)(quadrant == 1 || quadrant == 2 ? -rc : rc);
}

#endif
