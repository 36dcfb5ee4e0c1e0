/* grid.h: which items may matter to somebody at (x, y). */
#ifndef FASTVEC_DRIVE_GRID_H
#define FASTVEC_DRIVE_GRID_H

#include "layout.h"

/* Outside the grid nothing does; also for coordinates that are not finite. */
static inline const uint16_t *drive_grid_at(const drive_grid *grid, float x, float y, const uint16_t **end)
{
    float cx = (x - grid->x0) * grid->cells_per_metre, cy = (y - grid->y0) * grid->cells_per_metre;
    if (!(cx >= 0 && cy >= 0 && cx < (float)grid->nx && cy < (float)grid->ny)) return *end = grid->item;
    int32_t cell = (int32_t)cy * grid->nx + (int32_t)cx;
    *end = grid->item + grid->start[cell + 1];
    return grid->item + grid->start[cell];
}

#endif
