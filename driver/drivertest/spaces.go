package drivertest

import (
	"strings"

	"pgregory.net/rapid"

	"github.com/prismgw/prism/driver"
)

func spaceChecks() []check {
	return []check{
		{"spaces/same-names-same-data", nil, sameSpace},
		{"spaces/never-meet", nil, spacesNeverMeet},
		{"spaces/hostile-pairs", nil, hostileSpaces},
		{"spaces/tokens-never-meet", needsAtomic, tokensNeverMeet},
	}
}

func sameSpace(e *env) {
	space := e.named(driver.Space{Namespace: "drivertest-" + unique() + `:%_*{}[]?\'"/ é`, Pattern: `p:%_*{}[]?\'"/ é`})
	one, two := e.storeOn(e.s.anchor, space), e.storeOn(e.s.anchor, space)
	three := e.storeOn(e.open(), space)
	one.put("a", "1")
	two.is("a", "1")
	three.is("a", "1")
	three.delete("a")
	one.absent("a")
	two.holds("", 10)
	if e.s.h.Layout == nil {
		return
	}
	// Where data is adopted, its place is what counts, and not who adopts it.
	other := e.storeOn(e.s.anchor, driver.Space{Namespace: "drivertest-" + unique(), Pattern: "kv", Layout: space.Layout})
	one.put("a", "2")
	other.is("a", "2")
	other.delete("a")
	one.absent("a")
}

// hostilePairs are spaces whose names meet if they are joined, cut, folded or
// read as patterns carelessly. The empty namespace stands for one of its own.
func hostilePairs() [][2]driver.Space {
	long := strings.Repeat("n", 300)
	sp := func(ns, pattern string) driver.Space { return driver.Space{Namespace: ns, Pattern: pattern} }
	return [][2]driver.Space{
		{sp("a", "b"), sp("a", "b2")},
		{sp("a", "b"), sp("a2", "b")},
		{sp("a:b", ""), sp("a", "b")},
		{sp("a:b", ""), sp("a", "b:")},
		{sp("a", ":b"), sp("a:", "b")},
		{sp("a:", ":b"), sp("a", "::b")},
		{sp("a", ""), sp("", "a")},
		{sp("a:b", "c"), sp("a", "b:c")},
		{sp("a.b", "c"), sp("a", "b.c")},
		{sp("a/b", "c"), sp("a", "b/c")},
		{sp("a_b", "c"), sp("a", "b_c")},
		{sp("a%3Ab", "c"), sp("a:b", "c")},
		{sp("a%253Ab", "c"), sp("a%3Ab", "c")},
		{sp("a*", "c"), sp("ab", "c")},
		{sp("a_", "c"), sp("ab", "c")},
		{sp("a%", "c"), sp("ab", "c")},
		{sp("a?", "c"), sp("ab", "c")},
		{sp("[ab]", "c"), sp("a", "c")},
		{sp("{a}", "c"), sp("a", "c")},
		{sp("{a}b", "c"), sp("{a}", "bc")},
		{sp(`a\`, "c"), sp("a", "c")},
		{sp("a", "c"), sp("A", "c")},
		{sp("a", "c"), sp("a", "C")},
		{sp("a ", "c"), sp("a", "c")},
		{sp("a", " c"), sp("a", "c")},
		{sp("é", "c"), sp("e\u0301", "c")},
		{sp("é", "c"), sp("É", "c")},
		{sp("ß", "c"), sp("ss", "c")},
		{sp("a\n", "c"), sp("a", "c")},
		{sp("a'b", "c"), sp("a''b", "c")},
		{sp(">", "c"), sp("a", "c")},
		{sp(long, "c"), sp(long+"n", "c")},
		{sp("a", long), sp("a", long+"n")},
	}
}

// pairs are hostile pairs of this run, each space in its place. Adopted data
// lies where its layout says, whatever the names are, so that few pairs do.
func (e *env) pairs() [][2]driver.Space {
	e.Helper()
	all := hostilePairs()
	if e.s.h.Layout != nil {
		all = all[:3]
	}
	for p := range all {
		token := unique()
		for i := range all[p] {
			all[p][i].Namespace = "drivertest-" + token + all[p][i].Namespace
			all[p][i] = e.named(all[p][i])
		}
	}
	return all
}

func hostileSpaces(e *env) {
	for _, pair := range e.pairs() {
		e.apart(e, pair[0], pair[1], "a", "a")
		e.apart(e, pair[0], pair[1], "a", "b:a")
	}
}

// names draws the names of two spaces: of any text, or of words that were
// joined by a separator and cut at two places.
func names() *rapid.Generator[[2]driver.Space] {
	name := rapid.StringOfN(rapid.SampledFrom([]rune(`ab:%_*?[]{}\/'".> AéÉ`)), 0, 6, -1)
	random := rapid.Custom(func(t *rapid.T) (pair [2]driver.Space) {
		for i := range pair {
			pair[i] = driver.Space{Namespace: name.Draw(t, "namespace"), Pattern: name.Draw(t, "pattern")}
		}
		return pair
	})
	cut := rapid.Custom(func(t *rapid.T) (pair [2]driver.Space) {
		words := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "%"}), 3, 5).Draw(t, "words")
		separator := rapid.SampledFrom([]string{":", ":", ":", "/", ".", "_"}).Draw(t, "separator")
		first := rapid.IntRange(1, len(words)-2).Draw(t, "cut")
		for i, at := range []int{first, rapid.IntRange(first+1, len(words)-1).Draw(t, "other cut")} {
			pair[i] = driver.Space{Namespace: strings.Join(words[:at], separator), Pattern: strings.Join(words[at:], separator)}
		}
		return pair
	})
	return rapid.OneOf(cut, random, cut)
}

func spacesNeverMeet(e *env) {
	key := rapid.StringOfN(rapid.SampledFrom([]rune(`ab:%_*?[]{}\/'".> Aé`)), 1, 8, -1)
	if e.s.h.Layout != nil {
		a, b := e.space(), e.space()
		rapid.Check(e, func(t *rapid.T) { e.apart(t, a, b, key.Draw(t, "key"), key.Draw(t, "other key")) })
		return
	}
	rapid.Check(e, func(t *rapid.T) {
		pair := names().Draw(t, "spaces")
		if pair[0].Namespace == pair[1].Namespace && pair[0].Pattern == pair[1].Pattern {
			return
		}
		token := "drivertest-" + unique()
		for i := range pair {
			pair[i].Namespace = token + pair[i].Namespace
		}
		e.apart(t, pair[0], pair[1], key.Draw(t, "key"), key.Draw(t, "other key"))
	})
}

// apart checks that two spaces know nothing of each other.
func (e *env) apart(t rapid.TB, a, b driver.Space, keyA, keyB string) {
	t.Helper()
	inA, inB := e.storeOn(e.s.anchor, a), e.storeOn(e.s.anchor, b)
	inA.put(keyA, "of a")
	if n := len(inB.all("", 10)); n != 0 {
		t.Fatalf("a key of %+v is found by a scan of %+v", a, b)
	}
	if inB.getMany(keyA)[0].Err == nil || inB.getMany(keyB)[0].Err == nil {
		t.Fatalf("a key of %+v is found in %+v", a, b)
	}
	inB.put(keyB, "of b")
	if r := inA.getMany(keyA)[0]; r.Err != nil || string(r.Value) != "of a" {
		t.Fatalf("a put in %+v changed %+v: %q, %v", b, a, r.Value, r.Err)
	}
	inB.delete(keyA)
	if got := keysOf(inA.all("", 10)); len(got) != 1 || got[0] != keyA {
		t.Fatalf("after a delete in %+v, %+v holds %q, want %q", b, a, got, keyA)
	}
	inA.delete(keyA)
	inB.delete(keyB)
}
