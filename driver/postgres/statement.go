package postgres

import (
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A parameter is what a statement may be given; in its text it stands as
// @name.
type parameter int

const (
	pNamespace parameter = iota
	pPattern
	pKey
	pValue
	pTTL // microseconds, 0 for none
	pSeq
	pHash
	pDelta
	pToken
	pDigest
	pKeep // microseconds
	pKeys
	pValues
	pTTLs
	pLower
	pUpper
	pLimit
	pBytes
	pQueue
	pLease // microseconds
	pFrom
	pQueues
	pIDs
	pPriorities
	pDelays // microseconds
	pHeaders
	pPositions
	pTokens
	pExtends
	pCounts
	pName
	pPartition
	pAge // microseconds
	pConsumed
	pDedup // microseconds
	pTopic
	pTopics
	pPartitions
	pWindows // microseconds
	pHeads
	pNths
	pSums
	pSizes
	pRecordKeys
	pTexts
	pStart
	pTime
	pFroms
	pLimits
	pMosts
	pGroup
	pMember
	pGroups
	pOwners
	pClaims
	pNumbers
	pNexts
	pNotes
	pReleases
	parameters // how many there are
)

var parameterTypes = [parameters]struct{ name, kind string }{
	pNamespace: {"namespace", "text"},
	pPattern:   {"pattern", "text"},
	pKey:       {"key", "text"},
	pValue:     {"value", "bytea"},
	pTTL:       {"ttl", "int8"},
	pSeq:       {"seq", "int8"},
	pHash:      {"hash", "text"},
	pDelta:     {"delta", "int8"},
	pToken:     {"token", "bytea"},
	pDigest:    {"digest", "bytea"},
	pKeep:      {"keep", "int8"},
	pKeys:      {"keys", "text[]"},
	pValues:    {"values", "bytea[]"},
	pTTLs:      {"ttls", "int8[]"},
	pLower:     {"lower", "text"},
	pUpper:     {"upper", "text"},
	pLimit:     {"limit", "int8"},
	pBytes:     {"bytes", "int8"},

	pQueue:      {"queue", "text"},
	pLease:      {"lease", "int8"},
	pFrom:       {"from", "int8"},
	pQueues:     {"queues", "text[]"},
	pIDs:        {"ids", "text[]"},
	pPriorities: {"priorities", "int8[]"},
	pDelays:     {"delays", "int8[]"},
	pHeaders:    {"headers", "bytea[]"},
	pPositions:  {"positions", "int8[]"},
	pTokens:     {"tokens", "bytea[]"},
	pExtends:    {"extends", "int8[]"},
	pCounts:     {"counts", "int8[]"},

	pName:       {"name", "text"},
	pPartition:  {"partition", "int8"},
	pAge:        {"age", "int8"},
	pConsumed:   {"consumed", "int8"},
	pDedup:      {"dedup", "int8"},
	pTopic:      {"topic", "int8"},
	pTopics:     {"topics", "int8[]"},
	pPartitions: {"partitions", "int8[]"},
	pWindows:    {"windows", "int8[]"},
	pHeads:      {"heads", "int8[]"},
	pNths:       {"nths", "int8[]"},
	pSums:       {"sums", "int8[]"},
	pSizes:      {"sizes", "int8[]"},
	pRecordKeys: {"recordkeys", "bytea[]"},
	pTexts:      {"texts", "text[]"},
	pStart:      {"start", "int8"},
	pTime:       {"time", "timestamptz"},
	pFroms:      {"froms", "int8[]"},
	pLimits:     {"limits", "int8[]"},
	pMosts:      {"mosts", "int8[]"},
	pGroup:      {"group", "int8"},
	pMember:     {"member", "text"},
	pGroups:     {"groups", "int8[]"},
	pOwners:     {"owners", "text[]"},
	pClaims:     {"claims", "int8[]"},
	pNumbers:    {"numbers", "int8[]"},
	pNexts:      {"nexts", "int8[]"},
	pNotes:      {"notes", "text[]"},
	pReleases:   {"releases", "int8[]"},
}

// values are the parameters of one execution, in binary form.
type values [parameters][]byte

// A statement is prepared once per connection.
type statement struct {
	name   string
	sql    string
	params []parameter // in the order of $1, $2, …
}

func (s *statement) bind(v *values) [][]byte {
	args := make([][]byte, len(s.params))
	for i, p := range s.params {
		args[i] = v[p]
		if args[i] == nil {
			args[i] = []byte{} // nil would be NULL
		}
	}
	return args
}

var atName = regexp.MustCompile(`@[a-z]+`)

// compile turns a template into a statement: @name becomes a parameter, and
// what words holds is replaced last, so that nothing in a table's name is
// taken for a parameter.
func compile(template string, words *strings.Replacer) *statement {
	s := &statement{}
	text := atName.ReplaceAllStringFunc(template, func(at string) string {
		p := slices.IndexFunc(parameterTypes[:], func(t struct{ name, kind string }) bool { return t.name == at[1:] })
		i := slices.Index(s.params, parameter(p))
		if i < 0 {
			i = len(s.params)
			s.params = append(s.params, parameter(p))
		}
		return fmt.Sprintf("$%d::%s", i+1, parameterTypes[p].kind)
	})
	s.sql = words.Replace(text)
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.sql))
	s.name = "prism_" + strconv.FormatUint(h.Sum64(), 36)
	return s
}

// quote quotes an identifier.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal quotes a text.
func literal(text string) string {
	if strings.Contains(text, `\`) {
		return `E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(text) + `'`
	}
	return `'` + strings.ReplaceAll(text, `'`, `''`) + `'`
}

// act says which statement carries out an operation.
type act int

const (
	actPut act = iota
	actPutAbsent
	actPutIf
	actDelete
	actDeleteIf
	actAdd
	actAddIf
	actExpire
	actExpireIf
	acts // how many there are
)

// statements are those of one layout. The single ones answer a row of
// (version text, number int8, expires_at timestamptz) if the operation took
// effect, and no row if a condition failed.
type statements struct {
	get    *statement       // @keys: (key, value, version, expires_at)
	puts   *statement       // @keys @values @ttls, sorted: (key, version)
	look   *statement       // @key: (version, a short value or NULL)
	scan   [2][2]*statement // [keys only][bounded above] @lower @upper @limit @bytes: as get
	single [acts]*statement
	claim  *statement       // @token @digest @keep: nothing
	once   [acts]*statement // as single, under a claim, which it settles
	drop   *statement       // @token, if its claim is not settled: nothing
	recall *statement       // @token: (digest, version, number, expires_at)
}

// An operation that happens at most once is three statements in one
// transaction. claim takes the token, or waits for the one that has it and
// then does nothing; the operation itself happens only if this transaction
// holds a claim, and settles it with its result; a claim that nothing settled
// is dropped. Nobody else ever sees an unsettled claim.
const (
	recordRow = `o.namespace = @namespace AND o.pattern = @pattern AND o.token = @token`

	claimTemplate = `INSERT INTO {once} AS o (namespace, pattern, token, digest, kept_until, settled)
VALUES (@namespace, @pattern, @token, @digest, clock_timestamp() + @keep * interval '1 microsecond', false)
ON CONFLICT (namespace, pattern, token) DO UPDATE SET digest = EXCLUDED.digest, kept_until = EXCLUDED.kept_until, settled = false
WHERE o.kept_until <= clock_timestamp()`

	claimed = `EXISTS (SELECT FROM {once} o WHERE ` + recordRow + ` AND NOT o.settled)`

	settleTemplate = `WITH %s AS (%s) UPDATE {once} o SET settled = true, version = e.version, number = e.number, expires_at = e.expires_at
FROM %s WHERE ` + recordRow + ` AND NOT o.settled RETURNING o.version, o.number, o.expires_at`

	dropTemplate = `DELETE FROM {once} o WHERE ` + recordRow + ` AND NOT o.settled`

	recallTemplate = `SELECT o.digest, o.version, o.number, o.expires_at FROM {once} o WHERE ` + recordRow + ` AND o.kept_until > statement_timestamp()`
)

// templates are the texts that a layout's statements are made from.
type templates struct {
	get, puts, look string
	scan            [2][2]string // [keys only][bounded above]
	single          [acts]string // {if} is a further condition
}

func (t *templates) compile(words ...string) *statements {
	w := strings.NewReplacer(words...)
	s := &statements{
		get: compile(t.get, w), puts: compile(t.puts, w), look: compile(t.look, w),
		claim: compile(claimTemplate, w), drop: compile(dropTemplate, w), recall: compile(recallTemplate, w),
	}
	for i := range t.scan {
		for j := range t.scan[i] {
			s.scan[i][j] = compile(t.scan[i][j], w)
		}
	}
	for a := range acts {
		if t.single[a] == "" {
			continue // the layout has no such operation
		}
		s.single[a] = compile(strings.ReplaceAll(t.single[a], "{if}", "true"), w)
		name, from := "e", "e"
		if a == actDelete { // an absent key is no failure: there may be no row
			name, from = "gone", "(SELECT NULL::text AS version, NULL::int8 AS number, NULL::timestamptz AS expires_at) e"
		}
		s.once[a] = compile(fmt.Sprintf(settleTemplate, name, strings.ReplaceAll(t.single[a], "{if}", claimed), from), w)
	}
	return s
}
