// Package pgidemcrypt encrypts the answers that pgidem saves: results and failures, each with a data key of its own, which
// is wrapped by a key of the answer's scope. Whoever destroys a scope's key destroys the scope's answers, wherever
// copies of them may be.
//
//	sealer, err := pgidemcrypt.New(keys) // your Keys over a KMS, a vault or a table; or a Keyring
//	client, err := pgidem.New(pool, pgidem.Config{Sealer: sealer})
//
// It uses the standard library's AES-256-GCM and HKDF-SHA256 and nothing else.
//
// # What is saved
//
//	"\xff" "pgidem"     7 bytes, which begin no text and so no JSON
//	version             1 byte, 1
//	length, ID          1 byte; the scope key's ID, 1 to 255 bytes
//	salt               32 bytes, random
//	wrapped data key   60 bytes: nonce, AES-256-GCM of 32 random bytes, tag; its key is HKDF-SHA256 of the scope key
//	                   with the salt and the info "pgidemcrypt.wrap.v1"
//	answer             28 bytes more than the encoded answer: nonce, AES-256-GCM with the data key, tag
//
// An answer grows by 129 bytes and the ID; pgidem.Config.MaxResultBytes counts the sealed bytes.
//
// Every byte is authenticated: the wrapped data key together with all that stands before it and the place that the answer has,
// the answer together with magic, version and that place. The place is the pgidem.Key and the pgidem.Part: the
// scope's length as 8 bytes, most significant first, the scope, the ID's length likewise, the ID, and the part, "result" or
// "failure". So an answer that was changed, or copied to another row, or joined with another's header does not open, nor does
// a failure that was passed off as a result.
//
// The rest of the row is not authenticated: state, times, fingerprint. Not noticed is that somebody who can write to the
// table puts back an older answer of the very same place, lets a key expire, keeps it from expiring, passes it off as
// another request's, or removes its row.
//
// No key meets a nonce twice: a data key encrypts one answer, and each wrapping derives a key of its own. So there is no
// number of answers after which a scope key must be rotated. The secrets are not erased from the process's memory.
//
// # What stays readable
//
// In the table: scope and ID, kind, state, attempt, the four times, the length of the answer, the ID of the scope key,
// and the fingerprint. Keep personal data out of scopes and IDs, or use a keyed digest of it.
//
// The fingerprint is an unsalted SHA-256 of the request: where there are few possible requests, trying them all tells which
// it was. Do not use pgidem.TxOpts.Input then, but a fingerprint with a secret, which must stay the same until the
// answers expire, and go with the scope's keys:
//
//	mac := hmac.New(sha256.New, secret)
//	mac.Write(request)
//	opts := &pgidem.TxOpts{Fingerprint: pgidem.NewFingerprint(mac.Sum(nil))}
//
// Not covered is what the operation itself writes through its tx, and what a program logs.
//
// # What happens on each failure
//
//	Keys fails for a new answer                     rolled back; pgidem.ErrResult with its error as the cause
//	Keys fails for a saved one                      ErrResult likewise; the saved bytes stay, a retry asks again
//	the caller's context ends while Keys is asked   its cause; for a new answer nothing: Config.FinishBound bounds it
//	the scope key was destroyed                     ErrResult with ErrKeyDestroyed; the operation is not run again until
//	                                                the key has expired
//	the scope's current key was destroyed           new answers: rolled back, ErrResult with ErrKeyDestroyed
//	the scope key is not known                      ErrResult with ErrNoKey
//	bytes changed, cut off or from another row      ErrResult with ErrForged
//	bytes not sealed, or by a later release         ErrResult with ErrNotSealed
//
// # Destroying a scope's answers
//
// Give each tenant, or person, a scope of its own, and the scope random keys of its own that are kept outside of the database,
// where they can really be deleted, together with the backups of where they are kept. Then, to forget a tenant:
//
//  1. Let no new operation of the tenant begin.
//  2. Destroy all scope keys of its scopes (Keyring.DestroyScope), in the store and its backups, and the secret of its
//     fingerprints.
//  3. Wait until every process has dropped the copies that its Keys keeps in memory.
//
// From then on nobody can read the answers, also not those in replicas, caches, backups and the write-ahead log, which no
// DELETE reaches. Answers that were saved in plain, before encryption was switched on, are not covered: their copies go
// when the backups and the log go. Rows and keys are left; pgidem's Client.Forget and expiry remove them from the table.
//
// # Rotating a key
//
//  1. Make a new scope key the current one. Old answers open with the old one, new ones are sealed with the new.
//  2. Either wait until the answers that were sealed with the old key have expired, and go to 4,
//  3. or wait until every process uses the new key, and what began before has ended, and run pgidem's Client.Reseal for the scope
//     until a pass reports no Resealed and no Missed answers, and no error: one that returns pgidem.ErrUnknownOutcome may have
//     left answers that a failover takes back. It wraps the data keys anew; the encrypted answers are
//     written again as they are, so a data key that somebody has copied is not replaced.
//  4. Destroy the old scope key, and keep its ID among the destroyed ones. Where the database replicates asynchronously and
//     has failed over meanwhile, reseal once more first.
//
// # Switching encryption on
//
//  1. Deploy with [Opts] AcceptPlain and LeavePlain: every process learns to open sealed answers, and none seals.
//  2. Deploy with AcceptPlain alone. New answers are sealed, old ones are accepted.
//  3. When the plain answers have expired, or Client.Reseal has sealed them scope by scope, deploy without options.
//
// Where no retry can meet another release's answer, one deployment without options does.
package pgidemcrypt
