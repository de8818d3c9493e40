'use strict';
(() => {
  const form = document.getElementById('filter');
  const rows = Array.from(document.querySelectorAll('tr[data-result]'));
  const layers = Array.from(document.querySelectorAll('section.layer'));
  const words = new Map();

  const textOf = (row) => {
    if (!words.has(row)) words.set(row, row.textContent.toLowerCase());
    return words.get(row);
  };

  const apply = () => {
    const asked = new FormData(form);
    const text = asked.get('text').trim().toLowerCase();
    const results = asked.getAll('result');
    let shown = 0;
    for (const layer of layers) {
      const inLayer = !asked.get('layer') || asked.get('layer') === layer.dataset.layer;
      let any = false;
      for (const row of layer.querySelectorAll('tr[data-result]')) {
        const fits = inLayer && results.includes(row.dataset.result) && textOf(row).includes(text);
        row.hidden = !fits;
        any ||= fits;
        shown += fits ? 1 : 0;
      }
      layer.hidden = !any;
    }
    form.elements.shown.value = `${shown} of ${rows.length} shown`;
  };

  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target || !target.closest('#cases, #jobs')) return;
    if (target.closest('[hidden]')) {
      form.reset();
      apply();
    }
    const closed = target.matches('details') ? target : target.querySelector('details');
    if (closed) closed.open = true;
    target.scrollIntoView({ block: closed === target ? 'start' : 'center' });
  };

  form.hidden = false;
  form.addEventListener('input', apply);
  form.addEventListener('submit', (event) => event.preventDefault());
  // The fields have their first values only after the event.
  form.addEventListener('reset', () => setTimeout(apply));
  addEventListener('hashchange', reveal);
  addEventListener('beforeprint', () => {
    for (const closed of document.querySelectorAll('details')) closed.open = true;
  });
  apply();
  if (location.hash) reveal();
})();
