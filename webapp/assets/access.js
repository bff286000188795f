/* Names and roles of Dash's components, for those who hear the page: its lists of radio buttons call themselves list boxes, whose
   options may hold no control, and its drop-downs hide the element that the Tab key reaches. */

(() => {
  'use strict';
  const WATCHED = { childList: true, subtree: true, attributes: true, attributeFilter: ['role', 'aria-selected', 'aria-labelledby', 'tabindex'] };
  const set = (element, name, value) => { if (element.getAttribute(name) !== value) element.setAttribute(name, value); };

  /** The words that stand beside a control: the label made for it, else the title of its group. */
  function labelOf(control) {
    return document.querySelector(`label[for="${control.id}"]`) ?? control.closest('fieldset')?.querySelector('legend');
  }

  function idOf(label) {
    if (!label.id) label.id = `name-${document.querySelectorAll('[id^=name-]').length}`;
    return label.id;
  }

  /** Radio buttons and check boxes say themselves what they are; the list around them only needs a name. */
  function repairList(list) {
    const menu = document.querySelector('button.dash-dropdown[aria-expanded=true]');
    const label = labelOf(list.closest('.dash-dropdown-content') && menu ? menu : list);
    set(list, 'role', list.querySelector('input[type=radio]') ? 'radiogroup' : 'group');
    if (label) set(list, 'aria-labelledby', idOf(label));
    const popup = list.closest('[role=dialog]');
    if (popup && label) set(popup, 'aria-labelledby', idOf(label));
  }

  function repairOption(option) {
    option.removeAttribute('role');
    option.removeAttribute('aria-selected');
  }

  /** The button itself is what the Tab key reaches, and it says its name before its value. */
  function repairMenu(button) {
    const label = labelOf(button);
    set(button, 'tabindex', '0');
    set(button, 'aria-haspopup', 'dialog');
    button.parentElement.querySelector('.dash-dropdown-focus-target')?.setAttribute('tabindex', '-1');
    if (label) set(button, 'aria-labelledby', `${idOf(label)} ${button.id}-value`);
  }

  function repairSlider(slider) {
    const [name, ends] = [labelOf(slider)?.textContent ?? '', ['from', 'up to']];
    slider.querySelectorAll('[role=slider]').forEach((thumb, i) => set(thumb, 'aria-label', `${name} ${ends[i]}`));
  }

  const REPAIRS = [
    ['.dash-options-list[role=listbox]', repairList],
    ['.dash-options-list-option[role], .dash-options-list-option[aria-selected]', repairOption],
    ['button.dash-dropdown', repairMenu],
    ['.dash-slider-container', repairSlider],
    ['.upload input[type=file]', (input) => { set(input, 'aria-label', 'Session file'); set(input, 'tabindex', '-1'); }],
  ];

  let waiting = false;

  /** Once for everything that changed at a time. */
  function repair() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      for (const [selector, mend] of REPAIRS) for (const found of document.querySelectorAll(selector)) mend(found);
    });
  }

  new MutationObserver(repair).observe(document.documentElement, WATCHED);
})();
