// The order of the images: as drawn, or with suggestions the least certain first.

/** What has its place keeps it once a mark was made; `isTouched(state)` says whether one was. */
export function suggestedOrder(isTouched) {
  let placed = [];
  let forRound = null;
  return {
    forget: () => (placed = []),
    of(state) {
      const { round, suggestions } = state;
      if (forRound !== round.round || !isTouched(state)) placed = [];
      forRound = round.round;
      const scores = round.suggestions;
      if (!suggestions || !scores) return round.images;
      const doubt = (id) => Math.abs(scores[id].score - 0.5);
      const ids = round.images.map((image) => image.id);
      const added = ids.filter((id) => id in scores && !placed.includes(id)).sort((a, b) => doubt(a) - doubt(b));
      placed = [...placed.filter((id) => ids.includes(id)), ...added];
      const images = new Map(round.images.map((image) => [image.id, image]));
      return [...placed, ...ids.filter((id) => !placed.includes(id))].map((id) => images.get(id));
    },
  };
}
