/* One head as a matrix: queries down, keys across. */

/** A cell is at least one pixel, and of cells that share one the strongest is seen; `shade` says how opaque a part of the largest is. */
function paintMatrix(pen, panel, layer, head, queries, keys, { width, height, least, inset = 3, gap = 0, shade = (part) => part }) {
  pen.fillStyle = colour(hueOf(panel, head));
  const columns = Math.min(keys.length, Math.floor(width - 2 * inset));
  const rows = Math.min(queries.length, Math.floor(height - 2 * inset));
  const cells = new Float64Array(rows * columns);
  eachCode(panel, layer, [head], queries, keys, (found, _, query, key) => {
    if (toWeight(panel, found) < least) return;
    const row = Math.floor(((query - queries[0]) / queries.length) * rows);
    const place = row * columns + Math.floor(((key - keys[0]) / keys.length) * columns);
    cells[place] = Math.max(cells[place], found);
  });
  const [w, h] = [(width - 2 * inset) / columns, (height - 2 * inset) / rows];
  cells.forEach((found, place) => {
    pen.globalAlpha = shade(found / panel.top);
    if (found) pen.fillRect(inset + (place % columns) * w, inset + Math.floor(place / columns) * h, w - gap, h - gap);
  });
}
