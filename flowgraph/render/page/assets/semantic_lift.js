/* Hover: what a node is made of and what it goes into, and what the tip says of it. */

const TIP_TOKENS = 5;
// Here a way up or down ends: many other ways pass through these.
const JOINTS = new Set(['resid_pre', 'resid_mid', 'resid_post', 'attn_norm', 'mlp_norm', 'attn', 'mlp', 'final_norm', 'logit', 'resid_cross', 'cross_norm', 'cross_attn']);
const WHAT = {
  embed: 'token embedding', position_embed: 'position embedding', resid_pre: 'state of the residual stream', resid_mid: 'state between attention and MLP',
  resid_post: 'state after the layer', attn_norm: 'state after the norm, as attention reads it', query: 'query, as the key of the strongest source meets it',
  key: 'key of a source, as the query meets it', value: 'value of a source, through W_O, times its attention', head_rest: 'all other sources of this head',
  head: 'what the head adds', row: 'row of W_O times its input', attn_rest: 'all that is not shown of the attention', attn_bias: 'bias of the attention',
  attn: 'what attention adds', mlp_norm: 'state after the norm, as the MLP reads it', gate: 'what the gate of the neuron responds to',
  neuron_in: 'what the neuron responds to', neuron: 'what the neuron adds', mlp_rest: 'all neurons that are not shown', mlp_bias: 'bias of the MLP',
  resid_cross: 'state between attention and attention to the encoder', cross_norm: 'state after the norm, as attention to the encoder reads it',
  cross_query: 'query to the encoder; it meets keys in a space that is not read', cross_key: 'key of a token of the encoder, in a space that is not read',
  cross_value: 'value of a token of the encoder, through W_O, times its attention: in the space of the decoder', cross_head_rest: 'all other tokens of the encoder that this head reads',
  cross_kv_group: 'group of heads that reads the encoder', cross_head: 'what the head adds that reads the encoder', cross_row: 'row of W_O times its input', cross_rest: 'all that is not shown of the attention to the encoder',
  cross_bias: 'bias of the attention to the encoder', cross_attn: 'what attention to the encoder adds',
  mlp: 'what the MLP adds', final_norm: 'last state after the final norm', logit: 'logit', kv_group: 'group of heads',
  qkv: 'query, key and value before they are dealt out to heads', concat_heads: 'all heads side by side, before W_O', mlp_bias_in: 'bias of the neurons, through W_out',
};
const MEANING = {
  contribution: 'part of the target that the source makes up', attention: 'attention probability', norm: 'length of what is read',
  activation: 'what the target is multiplied by, or what it responds with', logits: 'logit', share: 'share', visit: 'weight that VISIT gives the edge',
};

/** Follow edges from a node until the first joints. */
function addWay(graph, node, edges, end, found) {
  for (const edge of edges[node]) {
    if (found.edges.has(edge.i)) continue;
    found.edges.add(edge.i);
    found.nodes.add(edge[end]);
    if (!JOINTS.has(graph.kinds[edge[end]])) addWay(graph, edge[end], edges, end, found);
  }
}

function liftedByNode({ graph }, node) {
  const found = { nodes: new Set([node]), edges: new Set() };
  if (JOINTS.has(graph.kinds[node])) {
    for (const edge of [...graph.incoming[node], ...graph.outgoing[node]]) {
      found.edges.add(edge.i);
      found.nodes.add(edge.source).add(edge.target);
    }
    return found;
  }
  addWay(graph, node, graph.incoming, 'source', found);
  addWay(graph, node, graph.outgoing, 'target', found);
  return found;
}

function liftedByEdge({ graph }, i) {
  const edge = graph.edges[i];
  return { nodes: new Set([edge.source, edge.target]), edges: new Set([i]) };
}

function liftWay(page, item, i) {
  const found = item.isEdge() ? liftedByEdge(page, i) : liftedByNode(page, i);
  const isMany = page.graph.edges.length > MANY_EDGES;
  page.cy.batch(() => {
    if (!isMany) page.cy.elements().not('.pin').addClass('dim');
    for (const node of found.nodes) page.cy.$id(`n${node}`).removeClass('dim').addClass('lift');
    for (const edge of found.edges) page.cy.$id(`e${edge}`).removeClass('dim').addClass('lift');
  });
}

/** Beside a pill, or at the pointer on an edge. */
function tipPlace({ target, renderedPosition }) {
  if (target.isEdge()) return { ...renderedPosition, left: renderedPosition.x };
  const { x1, x2, y1 } = target.renderedBoundingBox({ includeLabels: false });
  return { x: x2 - 6, left: x1 + 6, y: y1 + 10 };
}

function nodeTip(page, node) {
  const { graph, data } = page;
  const reading = graph.readings[node];
  const lines = [line(...nodeTitle(graph, node)), element('p', { class: 'what' }, WHAT[graph.kinds[node]] ?? ''), ...rolesNote(graph, node)];
  if (!reading) return graph.kinds[node] === 'logit' ? lines : [...lines, note('not read')];
  lines.push(...wordLines(data, graph.kinds[node], reading));
  const facts = readingFacts(data, graph.kinds[node], reading, { brief: true }).map(([name, ...value]) => element('span', {}, ...[name].flat(), ' ', ...value));
  for (let i = 0; i < facts.length; i += 2) lines.push(note(...between(facts.slice(i, i + 2), ' · ')));
  return lines;
}

function wordLines(data, kind, { top, bottom }) {
  const words = (entries) => between(entries.slice(0, TIP_TOKENS).map(([token, p]) => element('span', {}, tokenText(data.vocabulary[token], 'b'), ` ${number(p)}`)), ' · ');
  return [...(top.length ? [line(`${readingVerb(kind)} `, ...words(top))] : []), ...(bottom.length ? [note('least ', ...words(bottom))] : [])];
}

/** States are read; heads, values and neurons write; queries, keys and inputs respond. */
function readingVerb(kind) {
  if (['query', 'key', 'gate', 'neuron_in'].includes(kind)) return 'responds to';
  return kind.startsWith('resid') || kind.includes('embed') || kind.includes('norm') || kind === 'logit' ? 'reads' : 'writes';
}

function activationName(kind) {
  if (['key', 'value', 'head_rest', 'cross_key', 'cross_value', 'cross_head_rest'].includes(kind)) return 'attention';
  return kind === 'neuron' ? 'activation' : kind === 'row' || kind === 'cross_row' ? 'input (z)' : 'input · weights';
}

/** [name, value …] of everything that a reading says besides its tokens. */
function readingFacts(data, kind, reading, { brief = false } = {}) {
  const { norm, entropy, rank, probability, logit, foil_rank: foilRank, foil_probability: foilProbability } = reading;
  const target = () => tokenText(data.target ?? 'target');
  const foil = () => tokenText(data.foil ?? 'foil');
  const rows = [];
  if (rank !== undefined) rows.push([['rank of ', target()], count(rank)], [['probability of ', target()], number(probability)]);
  if (foilRank !== undefined) rows.push([['rank of ', foil()], count(foilRank)], [['probability of ', foil()], number(foilProbability)]);
  if (reading.activation !== undefined) rows.push([activationName(kind), number(reading.activation)]);
  if (reading.contribution !== undefined) rows.push(['contribution', weight(reading.contribution, 'logits'), unit('logits')]);
  if (reading.coverage !== undefined) rows.push(['coverage by the parts shown', percent(reading.coverage)]);
  if (logit !== undefined && !brief) rows.push([['logit of ', target()], signed(logit.toFixed(2))]);
  if (entropy !== undefined) rows.push(['entropy', number(entropy), unit('nats')]);
  rows.push(['norm', number(norm)]);
  return rows;
}

function edgeTip(page, i) {
  const { graph } = page;
  const edge = graph.edges[i];
  const lines = [line(...nodeTitle(graph, edge.source)), line('→ ', ...nodeTitle(graph, edge.target)), element('p', { class: 'what' }, kindName(edge.kind))];
  if (edge.isStructural) return [...lines, note('no number')];
  return [
    ...lines,
    line(`weight ${weight(edge.weight, edge.unit)} `, element('span', { class: 'note' }, `${edge.unit}: ${MEANING[edge.unit] ?? ''}`)),
    note(`share ${part(edge.share)} of what enters the target in this unit`),
  ];
}
