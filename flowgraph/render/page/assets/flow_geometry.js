/* Places to pixels: the page's copy of the formula in layout.py, from the same numbers (data.layout). */

/** Room before the first token's line, in pitches: for the squares and heads beside it. */
function leadOf(data, orientation) {
  const { lead, lead_heads: leadHeads } = data.layout[orientation];
  return data.room.slots > 1 ? leadHeads : lead;
}

function columnPitch(data, width) {
  const { margin } = data.layout.columns;
  return (width - margin.left - margin.right) / (data.room.tokens - 1 + leadOf(data, 'columns'));
}

function fitGeometry(data, width, height, wanted) {
  const isWide = columnPitch(data, width) >= data.layout.readable_pitch;
  const orientation = wanted === 'auto' ? (isWide ? 'columns' : 'rows') : wanted;
  return orientation === 'rows' ? fitRows(data, width, height) : fitColumns(data, width, height, isWide);
}

function fitColumns(data, width, height, isWide) {
  const { columns } = data.layout;
  const { room } = data;
  const margin = isWide ? columns.margin : { ...columns.margin, ...columns.dense };
  const [low, high] = columns.token_pitch;
  const token = clamp(low, columnPitch(data, width), high);
  const layer = Math.max(columns.layer_pitch, (height - margin.top - margin.bottom) / (room.layers + columns.above));
  const lead = 0.7 * leadOf(data, 'columns') * token;
  const slack = width - margin.left - margin.right - lead - (room.tokens - 1) * token;
  return {
    orientation: 'columns',
    token,
    layer,
    left: margin.left + lead + (slack > 0 ? slack / 2 : slack),
    top: Math.max(height - margin.bottom - 0.25 * layer, margin.top + room.layers * layer),
  };
}

function fitRows(data, width, height) {
  const { margin, token_pitch: pitch, layer_pitch: layerPitch, after } = data.layout.rows;
  const { room } = data;
  const lead = leadOf(data, 'rows');
  const lines = room.tokens - 0.5 + lead;
  const token = clamp(pitch[0], (height - margin.top - margin.bottom) / lines, pitch[1]);
  const layer = Math.max(layerPitch, (width - margin.left - margin.right) / (room.layers + after));
  const slack = height - margin.top - margin.bottom - lines * token;
  return {
    orientation: 'rows',
    token,
    layer,
    left: Math.min(margin.left + 0.2 * layer, width - margin.right - room.layers * layer),
    top: margin.top + lead * token + Math.min(0, slack),
  };
}

/** Distance of a place from its token's line: to the left of a column, above a row. */
function aside(data, geometry, place) {
  if (!place.k) return 0;
  const { slot } = data.layout;
  const first = Math.min(slot.first, slot[geometry.orientation] * geometry.token);
  const room = Math.max(0, geometry.token - first - slot.gap);
  const away = (place.k - 1) * slot.step;
  return first + Math.min(away, room) + Math.max(0, away - room) * slot.crowded;
}

function pixel(data, geometry, place) {
  const away = aside(data, geometry, place);
  if (geometry.orientation === 'columns') {
    return { x: geometry.left + place.x * geometry.token - away, y: geometry.top - place.y * geometry.layer };
  }
  return { x: geometry.left + place.y * geometry.layer, y: geometry.top + place.x * geometry.token - away };
}
