// Hides what belongs to a name, and says the value under the pointer or the arrow keys. Without it the page shows everything.
'use strict';
(() => {
  const tip = document.getElementById('tip');
  const words = new Map();
  let current = null;
  // A page that scrolls under a resting pointer is no wish to point at something else.
  let byKey = false;
  let resting = false;
  let seen = '';
  window.addEventListener(
    'pointermove',
    (event) => {
      const at = `${event.clientX} ${event.clientY}`;
      resting = at === seen;
      seen = at;
    },
    true,
  );

  const hush = () => {
    if (current) current.classList.remove('on');
    current = null;
    tip.hidden = true;
  };

  const place = (circle) => {
    const at = circle.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    const left = Math.max(4, Math.min(at.left + at.width / 2 - tip.offsetWidth / 2, room - tip.offsetWidth - 4));
    const above = at.top - tip.offsetHeight - 6;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${(above > 0 ? above : at.bottom + 6) + window.scrollY}px`;
  };

  const say = (circle, beside = []) => {
    if (circle === current) return;
    hush();
    current = circle;
    circle.classList.add('on');
    const all = [circle, ...beside];
    tip.textContent = all.slice(0, 6).map((one) => words.get(one)).join('\n');
    if (all.length > 6) tip.textContent += `\nand ${all.length - 6} more: step through them with the arrow keys`;
    tip.hidden = false;
    place(circle);
  };

  for (const plot of document.querySelectorAll('.plot')) {
    const svg = plot.querySelector('svg');
    const groups = [...svg.querySelectorAll('.hits')];
    const circles = groups.flatMap((group) => [...group.children]);
    for (const circle of circles) {
      const title = circle.firstElementChild;
      words.set(circle, title.textContent);
      title.remove(); // the browser's own tip would cover ours
    }
    const shown = () => circles.filter((circle) => !circle.parentNode.hasAttribute('hidden'));
    plot.setAttribute('aria-label', `${plot.getAttribute('aria-label')}: arrow keys step through its values`);

    const nearest = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      let best = null;
      let least = 24;
      for (const circle of shown()) {
        const away = Math.hypot(circle.cx.baseVal.value - at.x, circle.cy.baseVal.value - at.y);
        if (away < least) [best, least] = [circle, away];
      }
      return best;
    };
    // Marks that lie on another one.
    const under = (top) =>
      shown().filter((one) => one !== top && Math.hypot(one.cx.baseVal.value - top.cx.baseVal.value, one.cy.baseVal.value - top.cy.baseVal.value) < 3);
    for (const kind of ['pointermove', 'pointerdown']) {
      plot.addEventListener(kind, (event) => {
        if (byKey && resting && kind === 'pointermove') return;
        byKey = false;
        const circle = nearest(event);
        if (circle) say(circle, under(circle));
        else hush();
      });
    }
    plot.addEventListener('pointerleave', (event) => {
      if (event.pointerType === 'mouse' && !byKey) hush();
    });
    plot.addEventListener('blur', hush);
    plot.addEventListener('scroll', () => {
      if (current) place(current);
    });

    const step = (all, by) => {
      const at = all.indexOf(current);
      return at < 0 ? all[0] : all[(at + by + all.length) % all.length];
    };
    // Up and down go to the next series, at its first value.
    const leap = (all, by) => {
      const firsts = groups.map((group) => group.firstElementChild).filter((one) => all.includes(one));
      const at = current ? firsts.findIndex((one) => one.parentNode === current.parentNode) : -1;
      return at < 0 ? firsts[0] : firsts[(at + by + firsts.length) % firsts.length];
    };
    const keys = {
      ArrowRight: (all) => step(all, 1),
      ArrowLeft: (all) => step(all, -1),
      ArrowDown: (all) => leap(all, 1),
      ArrowUp: (all) => leap(all, -1),
      Home: (all) => all[0],
      End: (all) => all[all.length - 1],
    };
    plot.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') hush();
      const all = shown();
      if (!(event.key in keys) || all.length === 0 || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      byKey = true;
      const next = keys[event.key](all);
      next.scrollIntoView({ block: 'nearest', inline: 'nearest' });
      say(next);
    });
  }

  const form = document.getElementById('filter');
  if (!form) return;
  const boxes = [...form.querySelectorAll('input')];
  const owned = [...document.querySelectorAll('[data-m]')];
  const tables = [...document.querySelectorAll('table')];
  const note = document.getElementById('filtered');

  const apply = () => {
    const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    for (const part of owned) part.toggleAttribute('hidden', off.has(part.dataset.m));
    for (const table of tables) {
      const rows = [...table.tBodies[0].rows];
      const n = rows.filter((row) => row.hasAttribute('hidden')).length;
      table.querySelector('.hid').textContent = n ? `(the filter hides ${n} of ${rows.length} rows)` : '';
    }
    const names = boxes.filter((box) => !box.checked).map((box) => box.dataset.name);
    note.textContent = names.length ? `Hidden in tables and figures, not in sentences: ${names.join(', ')}.` : '';
    hush();
    return names;
  };
  const changed = () => {
    const names = apply();
    const hash = names.length ? `#hide=${names.map(encodeURIComponent).join(',')}` : '';
    try {
      history.replaceState(null, '', hash || location.pathname + location.search);
    } catch {
      // a page without an address of its own keeps no state
    }
  };
  const read = () => {
    const said = location.hash.match(/^#hide=(.*)$/);
    if (!said && location.hash) return; // a part of the page
    let hidden = [];
    try {
      hidden = said ? said[1].split(',').map(decodeURIComponent) : [];
    } catch {
      // an address that somebody cut off hides nothing
    }
    for (const box of boxes) box.checked = !hidden.includes(box.dataset.name);
    apply();
  };
  form.addEventListener('change', changed);
  form.addEventListener('submit', (event) => event.preventDefault());
  for (const button of form.querySelectorAll('button')) {
    button.addEventListener('click', () => {
      for (const box of boxes) box.checked = button.dataset.all === '1';
      changed();
    });
  }
  window.addEventListener('hashchange', read);
  form.hidden = false;
  read();
})();
